"""Stores of checkpoint files: a local or shared directory, or a remote location given by a URL."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import (
    absolute,
    open_regular,
    publish,
    sync_directory,
    write_durably,
)

CHUNK = 8 << 20
_OPTIONS = {"block_size": CHUNK}
_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9]+)*(/[a-z0-9-]+(\.[a-z0-9]+)*)*")


class FileRecord(NamedTuple):
    """A file as it was written: its name in the store, size in bytes, and SHA-256."""

    name: str
    size: int
    sha256: str


class DamageError(Exception):
    """A stored file is not what was written."""


class Store(Protocol):
    """Files by name, `directory/file`. Methods raise `OSError` on failure."""

    def write(self, name: str, chunks: Iterable[memoryview]) -> FileRecord:
        """Write a file. On return it is durable."""
        ...

    def publish(self, name: str, data: bytes) -> None:
        """Write a small file atomically."""
        ...

    def refresh(self) -> None:
        """Forget cached lookups of missing files, which another host may have created since."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        ...

    def list(self, directory: str) -> list[str]:
        """List the names (`directory/file`) in a directory; empty if it does not exist."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or a directory with its contents; do nothing if it does not exist."""
        ...

    def remove_empty(self) -> None:
        """Remove the directories that this object created, if they are empty."""
        ...


class LocalStore:
    """A directory on this machine or on a file system that all hosts share."""

    def __init__(self, root: Path) -> None:
        self._root = absolute(root).resolve()
        self._created: list[Path] = []

    def write(self, name: str, chunks: Iterable[memoryview]) -> FileRecord:
        """See `Store.write`."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        tally = _Tally(chunks)
        write_durably(path, tally)
        for directory in (path.parent, self._root):
            sync_directory(directory)
        return tally.record(name)

    def publish(self, name: str, data: bytes) -> None:
        """See `Store.publish`."""
        path = self._path(name)
        self._make(path.parent)
        publish(path, data)

    def refresh(self) -> None:
        """See `Store.refresh`. NFS caches for half a minute that a directory does not exist; trying
        to create it ends that.
        """
        with suppress(OSError):
            self._make(self._root)

    def open(self, name: str) -> BinaryIO:
        """See `Store.open`."""
        return open_regular(self._path(name))

    def list(self, directory: str) -> list[str]:
        """See `Store.list`."""
        path = self._path(directory) if directory else self._root
        if not path.is_dir():
            return []
        prefix = f"{directory}/" if directory else ""
        return [f"{prefix}{entry.name}" for entry in path.iterdir()]

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        path = self._path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_empty(self) -> None:
        """See `Store.remove_empty`."""
        with suppress(OSError):  # one that is not empty stays, with those around it
            while self._created:
                self._created.pop().rmdir()

    def _make(self, directory: Path) -> None:
        missing = [place for place in (directory, *directory.parents) if not place.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        self._created += missing[::-1]

    def __str__(self) -> str:
        return str(self._root)

    def _path(self, name: str) -> Path:
        """Raises `DamageError` if the name leads out of the store."""
        path = self._root
        for part in require_name(name).split("/"):
            path = path / part
            if path.is_symlink():
                raise DamageError(f"{path} is a symbolic link")
        return path


class RemoteStore:
    """A location that fsspec supports, such as `s3://bucket/run`. A file appears there when it is
    complete.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec  # type: ignore[import-untyped]  # has no types

            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"--checkpoint.directory {url} cannot be used: {error}",
                "install its package (for S3: pip install 'hvd_dqn[s3]'), or use a local path",
            ) from error
        self._url = url

    def write(self, name: str, chunks: Iterable[memoryview]) -> FileRecord:
        """See `Store.write`."""
        tally = _Tally(chunks)
        with _os_errors(), self._fs.open(self._place(name), "wb", **_OPTIONS) as file:
            for chunk in tally:
                file.write(chunk)
        return tally.record(name)

    def publish(self, name: str, data: bytes) -> None:
        """See `Store.publish`."""
        with _os_errors():
            self._fs.pipe_file(self._place(name), data)

    def refresh(self) -> None:
        """See `Store.refresh`."""
        self._fs.invalidate_cache()

    def open(self, name: str) -> BinaryIO:
        """See `Store.open`."""
        with _os_errors():
            file: BinaryIO = self._fs.open(self._place(name), "rb", **_OPTIONS)
            return file

    def list(self, directory: str) -> list[str]:
        """See `Store.list`."""
        self._fs.invalidate_cache()
        place = self._place(directory) if directory else self._root
        try:
            with _os_errors():
                entries = self._fs.ls(place, detail=False)
        except FileNotFoundError:
            return []
        prefix = f"{directory}/" if directory else ""
        return [f"{prefix}{str(entry).rstrip('/').rpartition('/')[2]}" for entry in entries]

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        with _os_errors():
            if self._fs.exists(self._place(name)):
                self._fs.rm(self._place(name), recursive=True)

    def remove_empty(self) -> None:
        """See `Store.remove_empty`. Object stores have no empty directories."""

    def __str__(self) -> str:
        return self._url

    def _place(self, name: str) -> str:
        return f"{self._root}/{require_name(name)}"


def open_store(place: str) -> Store:
    """Return the store at a path or an fsspec URL. Raises `UserError` if the URL's protocol is not
    available.
    """
    if "://" in place:
        return RemoteStore(place)
    return LocalStore(Path(place))


def require_name(name: str) -> str:
    """Return `name`. Raises `DamageError` unless it is a plain relative name without `..`."""
    if not _NAME.fullmatch(name):
        raise DamageError(f"{name!r} is not a valid file name")
    return name


def read(store: Store, record: FileRecord, *, limit: int) -> bytes:
    """Return the contents of a file. Raises `DamageError` if it is not what was written, or larger
    than `limit` bytes.
    """
    if record.size > limit:
        raise DamageError(f"{record.name} has {record.size} bytes, more than the limit of {limit}")
    with store.open(record.name) as file:
        data = file.read(record.size + 1)
    if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
        raise DamageError(f"{record.name} is not what was written (size or checksum)")
    return data


def verify(store: Store, record: FileRecord) -> None:
    """Read a file and compare it with its record. Raises `DamageError` if they differ, `OSError` if
    the store cannot be read.
    """
    left = record.size
    digest = hashlib.sha256()
    try:
        with store.open(record.name) as file:
            while chunk := file.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                digest.update(chunk)
    except (FileNotFoundError, UserError) as error:
        raise DamageError(f"{record.name} cannot be read ({error})") from error
    if left != 0 or digest.hexdigest() != record.sha256:
        raise DamageError(f"{record.name} is not what was written (size or checksum)")


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn any error of a remote file system's library into an `OSError`."""
    try:
        yield
    except (OSError, DamageError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class _Tally:
    """Counts and hashes chunks on their way to a file."""

    def __init__(self, chunks: Iterable[memoryview]) -> None:
        self._chunks = chunks
        self._size = 0
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[memoryview]:
        for chunk in self._chunks:
            self._size += len(chunk)
            self._digest.update(chunk)
            yield chunk

    def record(self, name: str) -> FileRecord:
        """Return the record of the file written."""
        return FileRecord(name, self._size, self._digest.hexdigest())
