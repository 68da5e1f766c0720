"""The manifest of a checkpoint: one small JSON file, written last, that lists all other files."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from hvd_dqn.checkpoint.store import DamageError, FileRecord, Store, require_name
from hvd_dqn.common.errors import UserError

FORMAT = 1
_LIMIT = 64 << 20
_STEP = re.compile(r"step-\d{12}")


class Segment(NamedTuple):
    """A file with frames of one rank's ring: for each environment in turn, its rows from number
    `start` [N] up to, not including, `stop` [N].
    """

    file: FileRecord
    start: list[int]
    stop: list[int]


class RankFiles(NamedTuple):
    """The files of one rank: its state, and segments with its ring's frames, oldest first."""

    state: FileRecord
    segments: list[Segment]


class Manifest(NamedTuple):
    """A complete checkpoint: counters, config, bytes of `metrics.jsonl`, and the files with their
    checksums.
    """

    env_steps: int
    updates: int
    config: dict[str, Any]
    metrics_bytes: int
    shared: FileRecord
    ranks: list[RankFiles]

    @property
    def directory(self) -> str:
        """The checkpoint's directory in the store. Segments are outside it, since checkpoints share
        them.
        """
        return step_directory(self.env_steps)

    def files(self) -> list[FileRecord]:
        """Return the records of all files that the checkpoint needs."""
        segments = [segment.file for rank in self.ranks for segment in rank.segments]
        return [self.shared, *(rank.state for rank in self.ranks), *segments]

    def to_bytes(self) -> bytes:
        """Return the contents of `manifest.json`."""
        body = self._asdict() | {"format": FORMAT}
        return json.dumps({"checksum": _checksum(body), "body": body}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse `manifest.json`. Raises `DamageError` if it is not what `to_bytes` returned."""
        try:
            text = json.loads(data)
            body = text["body"]
            if text["checksum"] != _checksum(body):
                raise DamageError("manifest.json does not match its checksum")
            if body.pop("format") != FORMAT:
                raise DamageError(f"manifest.json does not have format {FORMAT}")
            counts = [body[name] for name in ("env_steps", "updates", "metrics_bytes")]
            if not all(type(count) is int and count >= 0 for count in counts):
                raise ValueError("invalid counters")
            if not isinstance(body["config"], dict):
                raise ValueError("invalid config")
            return cls(
                **body
                | {
                    "shared": _file(body["shared"]),
                    "ranks": [_rank(*rank) for rank in body["ranks"]],
                }
            )
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
            raise DamageError(f"manifest.json is damaged ({error})") from error


def step_directory(env_steps: int) -> str:
    """Return the directory name of the checkpoint at `env_steps`."""
    return f"step-{env_steps:012d}"


def is_step(name: str) -> bool:
    """Return whether `name` is the directory name of a checkpoint."""
    return _STEP.fullmatch(name) is not None


def list_steps(store: Store) -> list[str]:
    """List the directories of all checkpoints, complete or not, oldest first."""
    return sorted(name for name in store.list("") if is_step(name))


def list_complete(store: Store) -> list[str]:
    """List the directories of the checkpoints that have a manifest, oldest first."""
    return [name for name in list_steps(store) if manifest_of(name) in store.list(name)]


def manifest_of(directory: str) -> str:
    """Return the name of a checkpoint's manifest."""
    return f"{directory}/manifest.json"


def load_manifest(store: Store, directory: str) -> Manifest:
    """Load the manifest in `directory`. Raises `DamageError` if it is missing or damaged, `OSError`
    if the store cannot be read.
    """
    name = manifest_of(directory)
    try:
        with store.open(name) as file:
            data = file.read(_LIMIT + 1)
    except FileNotFoundError as error:
        raise DamageError("it has no manifest: writing it was interrupted") from error
    except UserError as error:
        raise DamageError(str(error)) from error
    if len(data) > _LIMIT:
        raise DamageError(f"manifest.json is larger than {_LIMIT} bytes")
    manifest = Manifest.from_bytes(data)
    if manifest.directory != directory:
        raise DamageError(f"manifest.json belongs to {manifest.directory}")
    return manifest


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file(values: list[Any]) -> FileRecord:
    record = FileRecord(*values)
    require_name(record.name)
    if not isinstance(record.size, int) or record.size < 0:
        raise ValueError(f"invalid file size {record.size!r}")
    return record


def _rank(state: list[Any], segments: list[Any]) -> RankFiles:
    return RankFiles(_file(state), [_segment(*segment) for segment in segments])


def _segment(file: list[Any], start: list[int], stop: list[int]) -> Segment:
    if len(start) != len(stop) or not all(type(row) is int and row >= 0 for row in start + stop):
        raise ValueError("invalid rows")
    return Segment(_file(file), start, stop)
