"""Writing checkpoints beside the training: all ranks at the same update, whole or not at all."""

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
from hvd_dqn.checkpoint.segments import Stretch, still_needed
from hvd_dqn.checkpoint.store import CHUNK, DamageError, FileRecord, Store
from hvd_dqn.common.errors import one_line
from hvd_dqn.common.state import SplitState, pack, snapshot
from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.replay import Ring


class SaveError(Exception):
    """A checkpoint could not be written; the ones before it are as good as ever."""


@dataclass
class _Job:
    """A checkpoint on its way to the store."""

    env_steps: int
    updates: int
    metrics_bytes: int
    stretch: Stretch
    written: Future[tuple[FileRecord | None, RankFiles]]


class Saver:
    """Writes the checkpoints of a run.

    `begin` copies what will change and returns; a thread writes it. `finish`, at a point that all
    ranks reach alike, waits for the threads of all ranks and makes the checkpoint exist. `newest`
    is the env steps of the newest one that does.
    """

    def __init__(
        self,
        store: Store,
        communicator: Communicator,
        config: dict[str, Any],
        *,
        keep: int,
        touch: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._comm = communicator
        self._config = config
        self._keep = keep
        self._touch = touch
        self._segments: list[Segment] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: _Job | None = None
        self.newest: int | None = None

    def continue_from(self, env_steps: int | None, segments: list[Segment]) -> None:
        """Go on from a checkpoint of this store, whose `segments` hold frames of this rank's ring
        already, or from none. What is newer, or was never finished, is removed.
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
        self, state: SplitState, ring: Ring, progress: Progress, *, metrics_bytes: int
    ) -> None:
        """Take the state of all ranks as it is now. The one before it must be finished."""
        assert self._job is None, "finish comes first"
        env_steps = progress.env_steps
        directory, rank = step_directory(env_steps), f"rank-{self._comm.rank:04d}"
        shared = snapshot(state.shared) if self._comm.is_root else None
        own = snapshot(state.own)
        stretch = Stretch(ring, self._segments)
        kept = still_needed(self._segments, ring)

        def write() -> tuple[FileRecord | None, RankFiles]:
            if not torch.isfinite(own["replay"]["ring"]["rewards"]).all():
                raise DamageError("the replay holds a reward that is not finite")
            frames = self._write(f"frames/{rank}-{env_steps:012d}.bin", stretch.chunks())
            segment = Segment(frames, stretch.start.tolist(), stretch.stop.tolist())
            root = None
            if shared is not None:
                root = self._write(f"{directory}/shared.safetensors", [memoryview(pack(shared))])
            mine = self._write(f"{directory}/{rank}.safetensors", [memoryview(pack(own))])
            return root, RankFiles(mine, [*kept, segment])

        written = self._thread.submit(write)
        self._job = _Job(env_steps, progress.updates, metrics_bytes, stretch, written)

    def make_room(self, steps: int) -> None:
        """Wait for the writing where so many more steps would take rows from under it."""
        if self._job is not None and not self._job.stretch.is_safe(steps):
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is being written."""
        if self._job is not None:
            self._job.written.exception()

    def finish(self) -> None:
        """Wait for all ranks' writing and make the checkpoint exist. Collective.

        Raises `SaveError` on all ranks where one of them could not write.
        """
        if self._job is None:
            return
        job, self._job = self._job, None
        mine: Any = None
        problem: str | None = None
        try:
            mine = job.written.result()
        except (OSError, DamageError) as error:
            problem = one_line(error)
        files = self._agree(job, problem, mine)
        if self._comm.is_root:
            try:
                self._publish(job, files[0][0], [RankFiles(*rank) for _, rank in files])
            except (OSError, DamageError) as error:
                problem = one_line(error)
        self._agree(job, problem, None)
        self._segments = mine[1].segments
        self.newest = job.env_steps
        if self._comm.is_root:
            with contextlib.suppress(OSError):
                for name in list_complete(self._store)[: -self._keep]:
                    self._remove_quietly(name)
            self._remove_unused(job.env_steps)

    def close(self) -> None:
        """Wait for the thread."""
        self._thread.shutdown(wait=True)

    def _agree(self, job: _Job, problem: str | None, value: Any) -> list[Any]:
        """Every rank's `value`; `SaveError` where one of them has a problem. Collective."""
        everyone = self._comm.gather([problem, hostname(), value])
        for rank, (text, host, _) in enumerate(everyone):
            if text is not None:
                if self._comm.is_root:
                    self._remove_quietly(step_directory(job.env_steps))
                    self._remove_unused(job.env_steps)
                raise SaveError(f"rank {rank} on {host} could not write to {self._store}: {text}")
        return [value for _, _, value in everyone]

    def _write(self, name: str, contents: Iterable[memoryview]) -> FileRecord:
        """`touch` is called for every few megabytes: what a slow disk still takes is no hang."""

        def chunks() -> Iterator[memoryview]:
            for whole in contents:
                for start in range(0, len(whole), CHUNK):
                    self._touch()
                    yield whole[start : start + CHUNK]

        return self._store.write(name, chunks())

    def _publish(self, job: _Job, shared: Any, ranks: list[RankFiles]) -> None:
        manifest = Manifest(
            job.env_steps, job.updates, self._config, job.metrics_bytes, shared, ranks
        )
        self._store.publish(f"{manifest.directory}/manifest.json", manifest.to_bytes())

    def _remove_unused(self, last: int | None = None) -> None:
        """Segments that no checkpoint needs, of checkpoints up to the `last` one: other ranks may
        be writing the next already.
        """
        needed: set[str] = set()
        try:
            for name in list_complete(self._store):
                with contextlib.suppress(DamageError):
                    needed |= {record.name for record in load_manifest(self._store, name).files()}
            present = self._store.list("frames")
        except OSError:
            return  # what cannot be read may need any of them
        for name in present:
            if name not in needed and (last is None or _env_steps(name) <= last):
                self._remove_quietly(name)

    def _remove_quietly(self, name: str) -> None:
        """What cannot be removed stays: it is in nobody's way."""
        with contextlib.suppress(OSError, DamageError):
            self._store.remove(name)


def _env_steps(segment: str) -> int:
    """Of the checkpoint that a segment was written for; 0 for a stranger's file."""
    digits = segment.removesuffix(".bin").rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0
