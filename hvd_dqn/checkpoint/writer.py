"""Writes checkpoints while training continues: on all ranks at the same update, complete or not at
all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from hvd_dqn.checkpoint.manifest import (
    Manifest,
    RankFiles,
    Segment,
    list_complete,
    list_steps,
    load_manifest,
    step_directory,
)
from hvd_dqn.checkpoint.segments import PendingSegment, still_needed
from hvd_dqn.checkpoint.store import CHUNK, DamageError, FileRecord, Store
from hvd_dqn.common.errors import one_line
from hvd_dqn.common.state import DistributedState, pack, snapshot
from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.replay import Ring


class SaveError(Exception):
    """A checkpoint could not be written. Earlier checkpoints are not affected."""


@dataclass
class _PendingCheckpoint:
    """A checkpoint that is being written."""

    env_steps: int
    updates: int
    metrics_bytes: int
    new_rows: PendingSegment | None
    written: Future[tuple[FileRecord | None, RankFiles]]


class Saver:
    """Writes the checkpoints of a run.

    `begin` copies what will change and returns; a thread writes the copy. `finish`, which all ranks
    call at the same update, waits for the threads of all ranks and publishes the manifest. `newest`
    is the env steps of the newest complete checkpoint. `on_progress` is called while the thread
    writes.
    """

    def __init__(
        self,
        store: Store,
        communicator: Communicator,
        config: dict[str, Any],
        *,
        keep: int,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._comm = communicator
        self._config = config
        self._keep = keep
        self._on_progress = on_progress
        self._segments: list[Segment] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _PendingCheckpoint | None = None
        self.newest: int | None = None

    def continue_from(self, env_steps: int | None, segments: list[Segment]) -> None:
        """Continue after the checkpoint at `env_steps`, whose `segments` hold frames of this rank's
        ring, or after none. The root removes newer and incomplete checkpoints.
        """
        self.newest = env_steps
        self._segments = segments
        if self._comm.is_root:
            kept = "" if env_steps is None else step_directory(env_steps)
            for name in list_steps(self._store):
                if name > kept or name not in list_complete(self._store):
                    self._remove_quietly(name)
            self._remove_unused()

    def begin(
        self, state: DistributedState, ring: Ring | None, progress: Progress, *, metrics_bytes: int
    ) -> None:
        """Copy the state and start writing it, with the frames of `ring` if there is one. The
        previous checkpoint must be finished.
        """
        assert self._pending is None, "call finish first"
        env_steps = progress.env_steps
        directory, rank = step_directory(env_steps), f"rank-{self._comm.rank:04d}"
        shared = snapshot(state.shared) if self._comm.is_root else None
        per_rank = snapshot(state.per_rank)
        new_rows = None if ring is None else PendingSegment(ring, self._segments)
        segments = [] if ring is None else still_needed(self._segments, ring)

        def write() -> tuple[FileRecord | None, RankFiles]:
            if new_rows is not None:
                if not torch.isfinite(per_rank["replay"]["ring"]["rewards"]).all():
                    raise DamageError("the replay holds a reward that is not finite")
                frames = self._write(f"frames/{rank}-{env_steps:012d}.bin", new_rows.chunks())
                rows = new_rows.start.tolist(), new_rows.stop.tolist()
                segments.append(Segment(frames, *rows))
            root = None
            if shared is not None:
                root = self._write(f"{directory}/shared.safetensors", [memoryview(pack(shared))])
            mine = self._write(f"{directory}/{rank}.safetensors", [memoryview(pack(per_rank))])
            return root, RankFiles(mine, segments)

        written = self._thread.submit(write)
        self._pending = _PendingCheckpoint(
            env_steps, progress.updates, metrics_bytes, new_rows, written
        )

    def wait_before_overwriting(self, steps: int) -> None:
        """Wait for the writing thread if `steps` more steps would overwrite rows that it still
        reads.
        """
        rows = None if self._pending is None else self._pending.new_rows
        if rows is not None and not rows.survives(steps):
            self.wait()

    def wait(self) -> None:
        """Wait until the thread has written this rank's files."""
        if self._pending is not None:
            self._pending.written.exception()

    def finish(self) -> None:
        """Wait until all ranks have written their files, and publish the checkpoint. Collective.

        Raises `SaveError` on all ranks if one of them could not write.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        mine: Any = None
        problem: str | None = None
        try:
            mine = pending.written.result()
        except (OSError, DamageError) as error:
            problem = one_line(error)
        files = self._gather_or_raise(pending, problem, mine)
        if self._comm.is_root:
            try:
                self._publish(pending, files[0][0], [RankFiles(*rank) for _, rank in files])
            except (OSError, DamageError) as error:
                problem = one_line(error)
        self._gather_or_raise(pending, problem, None)
        self._segments = mine[1].segments
        self.newest = pending.env_steps
        if self._comm.is_root:
            with contextlib.suppress(OSError):
                for name in list_complete(self._store)[: -self._keep]:
                    self._remove_quietly(name)
            self._remove_unused(pending.env_steps)

    def close(self) -> None:
        """Wait for the thread to end."""
        self._thread.shutdown(wait=True)

    def _gather_or_raise(
        self, pending: _PendingCheckpoint, problem: str | None, value: Any
    ) -> list[Any]:
        """Return every rank's `value`. Raises `SaveError` on all ranks if one of them has a
        problem. Collective.
        """
        everyone = self._comm.gather([problem, hostname(), value])
        for rank, (text, host, _) in enumerate(everyone):
            if text is not None:
                if self._comm.is_root:
                    self._remove_quietly(step_directory(pending.env_steps))
                    self._remove_unused(pending.env_steps)
                raise SaveError(f"rank {rank} on {host} could not write to {self._store}: {text}")
        return [value for _, _, value in everyone]

    def _write(self, name: str, contents: Iterable[memoryview]) -> FileRecord:
        """Write a file. Calls `on_progress` every few megabytes, so that a slow disk does not count
        as a hang.
        """

        def chunks() -> Iterator[memoryview]:
            for whole in contents:
                for start in range(0, len(whole), CHUNK):
                    self._on_progress()
                    yield whole[start : start + CHUNK]

        return self._store.write(name, chunks())

    def _publish(self, pending: _PendingCheckpoint, shared: Any, ranks: list[RankFiles]) -> None:
        manifest = Manifest(
            pending.env_steps, pending.updates, self._config, pending.metrics_bytes, shared, ranks
        )
        self._store.publish(f"{manifest.directory}/manifest.json", manifest.to_bytes())

    def _remove_unused(self, last: int | None = None) -> None:
        """Remove the segments that no checkpoint needs, but none of checkpoints after `last`: other
        ranks may be writing those already.
        """
        needed: set[str] = set()
        try:
            for name in list_complete(self._store):
                with contextlib.suppress(DamageError):
                    needed |= {record.name for record in load_manifest(self._store, name).files()}
            present = self._store.list("frames")
        except OSError:
            return  # an unreadable checkpoint may need any segment
        for name in present:
            if name not in needed and (last is None or _env_steps(name) <= last):
                self._remove_quietly(name)

    def _remove_quietly(self, name: str) -> None:
        """Remove it, and ignore errors: a file that stays does no harm."""
        with contextlib.suppress(OSError, DamageError):
            self._store.remove(name)


def _env_steps(segment: str) -> int:
    """Return the env steps of the checkpoint that a segment was written for, 0 if the name is not a
    segment's.
    """
    digits = segment.removesuffix(".bin").rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0
