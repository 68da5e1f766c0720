"""Safe reading of untrusted files, and durable writing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import IO, BinaryIO

from hvd_dqn.common.errors import UserError

_SYNC_BYTES = 64 << 20


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file, chunk by chunk, and return once it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        waiting = 0
        for chunk in chunks:
            file.write(chunk)
            waiting += len(chunk)
            if waiting > _SYNC_BYTES:
                _sync(file)
                waiting = 0
        _sync(file)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def publish(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old contents or the new."""
    partial = path.with_name(f"{path.name}.partial")
    write_durably(partial, [data])
    partial.rename(path)
    sync_directory(path.parent)


def require_writable(path: Path | None) -> None:
    """Raise `UserError` unless a file can be written at `path`. Call it before the work whose
    result goes there. `None` is accepted.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path} is a directory", "choose a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def rename_to_new(partial: Path, path: Path) -> None:
    """Rename a file atomically to a name in the same directory that must not exist.

    Raises `FileExistsError` if it does; of several processes that do this at once, one succeeds.
    """
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links (FUSE, CIFS, object stores); other errors come again below
        claim = path.with_name(f".{path.name}.claim")
        claim.open("x").close()
        try:
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            partial.rename(path)
        finally:
            claim.unlink()
    else:
        partial.unlink()


def sync_directory(path: Path) -> bool:
    """Return True once the names in this directory are on the disk, or False if its file system
    cannot tell (FUSE, CIFS).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises `UserError` if `path` is a symbolic link, pipe or
    device, `OSError` if it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the contents of a regular file. Raises `UserError` if it is larger than `limit` bytes
    or not a regular file, `OSError` if it cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path} is larger than the limit of {limit} bytes")
    return data
