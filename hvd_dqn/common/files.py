"""Safe reading of untrusted files, and durable writing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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


def expanded(path: Path) -> Path:
    """Return `path` with `~` replaced by the home directory.

    Raises `UserError` if there is none.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}", "write the whole path") from error


def set_home() -> None:
    """Set HOME, if it is not set, to the user's home, or to `/`: Open MPI does not start without
    it.
    """
    try:
        home = Path.home()
    except RuntimeError:  # a user without a name
        home = Path("/")
    os.environ["HOME"] = str(home) if home.is_absolute() else "/"


def absolute(path: str | Path) -> Path:
    """Return `path` as an absolute path, with `~` replaced by the home directory. Call it before an
    environment, which may change the working directory, is made.

    Raises `UserError` if there is no such home or no working directory.
    """
    path = expanded(Path(path))
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} cannot be found: the working directory was removed", "change to another one"
        ) from error


def require_writable(path: Path) -> Path:
    """Return `path` as an absolute path. Call it before the work whose result goes there.

    Raises `UserError` unless a file can be written there. Leaves nothing behind.
    """
    path = absolute(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory", "choose a file name")
    if path.exists() and not path.is_file():  # a pipe or a device
        return path
    place = next(parent for parent in path.resolve().parents if parent.exists())
    probe = place / f".{os.getpid()}.partial"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file name to write to, which becomes `path` if the block succeeds, and is removed
    otherwise. It has the extension of `path`. A pipe or a device is written to directly.

    Raises `UserError` if writing raises `OSError`.
    """
    path = absolute(path)
    real = path.resolve()  # of a link, the file that it points to is replaced
    special = real.exists() and not real.is_file()
    partial = real if special else real.with_name(f"partial-{os.getpid()}-{real.name}")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if not special:
            partial.rename(real)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if not special:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


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
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(
            f"{path} is a symbolic link",
            "replace it by the file that it points to (cp -L, git annex unlock, dvc checkout with "
            "cache.type copy)",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int, *, follow: bool = False) -> bytes:
    """Return the contents of a regular file, or, with `follow`, of one that a link points to.

    Raises `UserError` if it is larger than `limit` bytes or not a regular file, `OSError` if it
    cannot be read.
    """
    path = path.resolve() if follow else path
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path} is larger than the limit of {limit} bytes")
    return data
