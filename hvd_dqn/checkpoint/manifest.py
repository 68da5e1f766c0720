"""What a checkpoint consists of, in one small file that is written last."""

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
    """A file with frames of one rank's ring: of each environment in turn, its rows number `start`
    [N] to before `stop` [N].
    """

    file: FileRecord
    start: list[int]
    stop: list[int]


class RankFiles(NamedTuple):
    """One rank's part: its state, and the segments that hold its ring's frames, oldest first."""

    state: FileRecord
    segments: list[Segment]


class Manifest(NamedTuple):
    """A complete checkpoint."""

    env_steps: int
    updates: int
    config: dict[str, Any]
    metrics_bytes: int
    shared: FileRecord
    ranks: list[RankFiles]

    @property
    def directory(self) -> str:
        """Its own directory in the store; the segments are beside it, for several checkpoints."""
        return step_directory(self.env_steps)

    def files(self) -> list[FileRecord]:
        """Everything that it needs."""
        segments = [segment.file for rank in self.ranks for segment in rank.segments]
        return [self.shared, *(rank.state for rank in self.ranks), *segments]

    def to_bytes(self) -> bytes:
        """The text of `manifest.json`."""
        body = self._asdict() | {"format": FORMAT}
        return json.dumps({"checksum": _checksum(body), "body": body}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """`DamageError` where it is not what `to_bytes` gave."""
        try:
            text = json.loads(data)
            body = text["body"]
            if text["checksum"] != _checksum(body):
                raise DamageError("manifest.json is not what was written (checksum)")
            if body.pop("format") != FORMAT:
                raise DamageError("manifest.json is of another format of checkpoints")
            counts = [body[name] for name in ("env_steps", "updates", "metrics_bytes")]
            if not all(type(count) is int and count >= 0 for count in counts):
                raise ValueError("counters that are no numbers")
            if not isinstance(body["config"], dict):
                raise ValueError("a config that is none")
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
    """The directory of the checkpoint at this many env steps."""
    return f"step-{env_steps:012d}"


def list_steps(store: Store) -> list[str]:
    """Directories of checkpoints, complete or not, oldest first."""
    return sorted(name for name in store.list("") if _STEP.fullmatch(name))


def list_complete(store: Store) -> list[str]:
    """Directories of checkpoints that were written to their end, oldest first."""
    return [name for name in list_steps(store) if manifest_of(name) in store.list(name)]


def manifest_of(directory: str) -> str:
    """The name of a checkpoint's manifest."""
    return f"{directory}/manifest.json"


def load_manifest(store: Store, directory: str) -> Manifest:
    """`DamageError` where there is none that is whole, `OSError` where that cannot be known."""
    name = manifest_of(directory)
    try:
        with store.open(name) as file:
            data = file.read(_LIMIT + 1)
    except FileNotFoundError as error:
        raise DamageError("it was not finished") from error
    except UserError as error:
        raise DamageError(str(error)) from error
    if len(data) > _LIMIT:
        raise DamageError(f"manifest.json has more than {_LIMIT} bytes")
    manifest = Manifest.from_bytes(data)
    if manifest.directory != directory:
        raise DamageError(f"manifest.json is of {manifest.directory}")
    return manifest


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file(values: list[Any]) -> FileRecord:
    record = FileRecord(*values)
    require_name(record.name)
    if not isinstance(record.size, int) or record.size < 0:
        raise ValueError(f"a file of {record.size!r} bytes")
    return record


def _rank(state: list[Any], segments: list[Any]) -> RankFiles:
    return RankFiles(_file(state), [_segment(*segment) for segment in segments])


def _segment(file: list[Any], start: list[int], stop: list[int]) -> Segment:
    if len(start) != len(stop) or not all(type(row) is int and row >= 0 for row in start + stop):
        raise ValueError("rows that are no numbers")
    return Segment(_file(file), start, stop)
