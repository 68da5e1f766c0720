"""Reading what may be hostile, and writing what must not be lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import IO, BinaryIO

from hvd_dqn.common.errors import UserError

_SYNC_BYTES = 64 << 20


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a new file and wait until the disk has it, some chunks at a time."""
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
    """Put a whole file in the place of whatever was there, at once."""
    partial = path.with_name(f"{path.name}.partial")
    write_durably(partial, [data])
    partial.rename(path)
    sync_directory(path.parent)


def room_for(path: Path | None) -> None:
    """Before there is something to write: that it can be. `UserError` where it cannot."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path} is a directory", "name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in this directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading that is a plain one: no link, pipe or device. `OSError` where it is
    not to be had, `UserError` where it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is no plain file")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """The contents of a plain file of at most `limit` bytes. `OSError`, `UserError`."""
    with open_plain(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{path} is larger than the {limit} bytes that it may have")
    return data
