"""Where checkpoints are kept: a directory, or a remote place by its URL."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import open_plain, publish, sync_directory, write_durably

CHUNK = 8 << 20
_OPTIONS = {"block_size": CHUNK}
_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9]+)*(/[a-z0-9-]+(\.[a-z0-9]+)*)*")


class FileRecord(NamedTuple):
    """A file as it was written: its name in the store, its size, its digest."""

    name: str
    size: int
    sha256: str


class DamageError(Exception):
    """Something stored is not what was written."""


class Store(Protocol):
    """Files by name, `directory/file`. What fails raises `OSError`."""

    def write(self, name: str, chunks: Iterable[memoryview]) -> FileRecord:
        """Write a file; when this returns it is there for good."""
        ...

    def publish(self, name: str, data: bytes) -> None:
        """Write a small file that is there whole or not at all."""
        ...

    def look_anew(self) -> None:
        """Forget what was looked for before and not found: another host may have made it."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        ...

    def list(self, directory: str) -> list[str]:
        """Names (`directory/file`) of what is in a directory; none where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or a directory with all in it; nothing where there is none."""
        ...


class LocalStore:
    """A directory of this machine, or one that all hosts share."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def write(self, name: str, chunks: Iterable[memoryview]) -> FileRecord:
        """See `Store`."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        tally = _Tally(chunks)
        write_durably(path, tally)
        for directory in (path.parent, self._root):
            sync_directory(directory)
        return tally.record(name)

    def publish(self, name: str, data: bytes) -> None:
        """See `Store`."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, data)

    def look_anew(self) -> None:
        """NFS remembers for half a minute that a directory was not there, unless one tries to make
        it.
        """
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)

    def open(self, name: str) -> BinaryIO:
        """See `Store`."""
        return open_plain(self._path(name))

    def list(self, directory: str) -> list[str]:
        """See `Store`."""
        path = self._path(directory) if directory else self._root
        if not path.is_dir():
            return []
        prefix = f"{directory}/" if directory else ""
        return [f"{prefix}{entry.name}" for entry in path.iterdir()]

    def remove(self, name: str) -> None:
        """See `Store`."""
        path = self._path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self._root)

    def _path(self, name: str) -> Path:
        """`DamageError` for a name that would lead out of the store."""
        path = self._root
        for part in require_name(name).split("/"):
            path = path / part
            if path.is_symlink():
                raise DamageError(f"{path} is a link")
        return path


class RemoteStore:
    """A place that fsspec reaches, such as `s3://bucket/run`. A file appears there when it is
    complete.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec  # type: ignore[import-untyped]  # it has no types

            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"checkpoint.directory = {url!r} cannot be used: {error}",
                "install what it names (S3: pip install 'hvd_dqn[s3]'), or use a local path",
            ) from error
        self._url = url

    def write(self, name: str, chunks: Iterable[memoryview]) -> FileRecord:
        """See `Store`."""
        tally = _Tally(chunks)
        with _failing_as_files_do(), self._fs.open(self._place(name), "wb", **_OPTIONS) as file:
            for chunk in tally:
                file.write(chunk)
        return tally.record(name)

    def publish(self, name: str, data: bytes) -> None:
        """See `Store`."""
        with _failing_as_files_do():
            self._fs.pipe_file(self._place(name), data)

    def look_anew(self) -> None:
        """See `Store`."""
        self._fs.invalidate_cache()

    def open(self, name: str) -> BinaryIO:
        """See `Store`."""
        with _failing_as_files_do():
            file: BinaryIO = self._fs.open(self._place(name), "rb", **_OPTIONS)
            return file

    def list(self, directory: str) -> list[str]:
        """See `Store`."""
        self._fs.invalidate_cache()
        place = self._place(directory) if directory else self._root
        try:
            with _failing_as_files_do():
                entries = self._fs.ls(place, detail=False)
        except FileNotFoundError:
            return []
        prefix = f"{directory}/" if directory else ""
        return [f"{prefix}{str(entry).rstrip('/').rpartition('/')[2]}" for entry in entries]

    def remove(self, name: str) -> None:
        """See `Store`."""
        with _failing_as_files_do():
            if self._fs.exists(self._place(name)):
                self._fs.rm(self._place(name), recursive=True)

    def __str__(self) -> str:
        return self._url

    def _place(self, name: str) -> str:
        return f"{self._root}/{require_name(name)}"


def open_store(place: str) -> Store:
    """The store at a path or an fsspec URL. `UserError` where the URL's kind is not to be had."""
    if "://" in place:
        return RemoteStore(place)
    return LocalStore(Path(place))


def require_name(name: str) -> str:
    """`DamageError` unless it is a plain name within a store."""
    if not _NAME.fullmatch(name):
        raise DamageError(f"{name!r} is no name of a checkpoint's file")
    return name


def read(store: Store, record: FileRecord, *, limit: int) -> bytes:
    """The contents of a file. `DamageError` where it is not the one that was written, or has more
    than `limit` bytes.
    """
    if record.size > limit:
        raise DamageError(f"{record.name} claims {record.size} bytes, more than {limit}")
    with store.open(record.name) as file:
        data = file.read(record.size + 1)
    if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
        raise DamageError(f"{record.name} is not what was written (size or checksum)")
    return data


def verify(store: Store, record: FileRecord) -> None:
    """`DamageError` where a file is not the one that was written, `OSError` where that cannot be
    known.
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
def _failing_as_files_do() -> Iterator[None]:
    """Whatever a remote file system's library raises is an `OSError`."""
    try:
        yield
    except (OSError, DamageError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class _Tally:
    """Chunks on their way to a file, counted and hashed."""

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
        """What went through."""
        return FileRecord(name, self._size, self._digest.hexdigest())
