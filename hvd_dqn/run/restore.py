"""Resuming from a checkpoint: bit for bit on the same number of ranks, with every transition on any
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hvd_dqn.checkpoint import DamageError, Saver, Store
from hvd_dqn.checkpoint.finder import load_state, report_read_errors, restore_or_raise
from hvd_dqn.checkpoint.manifest import Manifest, Segment
from hvd_dqn.checkpoint.segments import load_ring, read_rows
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.state import DistributedState, State, state_bytes
from hvd_dqn.common.structs import ReplayedEpisodes
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.replay.redistribution import RowData, SavedEnvironment, redistribute
from hvd_dqn.run.assembly import Components
from hvd_dqn.run.start import Start

_RING_FIELDS = ("env.num_envs", "replay.capacity")
_MOST_NAMED = 8


class Restored(NamedTuple):
    """What a run resumes with: how each rank's environments replayed their episodes (`None` if the
    checkpoint has another number of ranks or environments), and the files with frames of this
    rank's ring that it can use again.
    """

    replayed: list[ReplayedEpisodes] | None
    segments: list[Segment]

    def differences(self) -> Iterator[str]:
        """Yield a line for each difference from a run that was never stopped."""
        if self.replayed is None:
            yield (
                "every environment starts a new episode: the checkpoint has another number of "
                "ranks or environments"
            )
            return
        ranks = list(enumerate(self.replayed))
        cut = [(rank, copy) for rank, episodes in ranks for copy in episodes.cut]
        if cut:
            yield (
                f"{_environments(cut)} could not replay the unfinished episode, and started a new "
                "one: the environment raises, uses randomness that does not come from its seed, or "
                "keeps state from one episode to the next; the numbers differ from now on from "
                "those of a run that was never stopped"
            )
        others = [(rank, *other) for rank, episodes in ranks for other in episodes.other_returns]
        if others:
            _, _, now, recorded = others[0]
            yield (
                f"{_environments([(rank, copy) for rank, copy, *_ in others])} replayed the "
                f"unfinished episode with other rewards (a return of {now:g} instead of "
                f"{recorded:g}): the environment keeps state from one episode to the next, which a "
                "checkpoint does not contain; the numbers differ from now on from those of a run "
                "that was never stopped"
            )


def _environments(copies: list[tuple[int, int]]) -> str:
    """Name the environments (rank, copy), at most `_MOST_NAMED` of them."""
    names = [f"{copy} of rank {rank}" for rank, copy in copies[:_MOST_NAMED]]
    more = len(copies) - len(names)
    several = "s" if len(copies) > 1 else ""
    return f"environment{several} {', '.join(names)}{f' and {more} more' if more else ''}"


def restore(
    config: Config,
    comm: Communicator,
    start: Start,
    components: Components,
    touch: Callable[[], None],
) -> Restored:
    """Load the checkpoint of `start`, if any, into `components`. Collective; writes nothing.

    Calls `touch` while it reads. Raises `UserError` on all ranks or on none.
    """
    manifest = start.manifest
    if manifest is None:
        return Restored([], [])
    replayed: ReplayedEpisodes | None = None
    segments: list[Segment] = []
    with agreement(comm):
        source = _Source(start.source, manifest, components, touch)
        if bool(manifest.config.get("rollout.steps", 0)) != bool(config.rollout.steps):
            raise UserError(
                f"{source} is of a run {'without' if config.rollout.steps else 'with'} rollouts",
                "start a new run for the other way to learn",
            )
        try:
            if _has_state_of(config, comm, manifest):
                replayed = source.restore(comm.rank)
                segments = manifest.ranks[comm.rank].segments
            else:
                source.redistribute(config, comm)
        except (DamageError, OSError) as error:
            raise UserError(f"{source} cannot be used: {error}") from error
    everyone = comm.gather(replayed)
    if None in everyone:
        return Restored(None, segments)
    return Restored([ReplayedEpisodes(*rank) for rank in everyone], segments)


def save_after(comm: Communicator, start: Start, saver: Saver, restored: Restored) -> None:
    """Let `saver` continue after the checkpoint of `start`, and remove newer ones. Collective.

    Raises `UserError` on all ranks or on none.
    """
    in_place = start.manifest is not None and str(start.source) == str(start.store)
    with agreement(comm), report_read_errors(start.store):
        if in_place:
            saver.continue_from(start.env_steps, restored.segments)
        else:
            saver.continue_from(None, [])


def _has_state_of(config: Config, comm: Communicator, manifest: Manifest) -> bool:
    """Return whether the checkpoint has a state for every rank, with a ring of the same size."""
    now = config.flat()
    fields = _RING_FIELDS[:1] if config.rollout.steps else _RING_FIELDS
    same_ring = all(manifest.config.get(name) == now[name] for name in fields)
    return same_ring and len(manifest.ranks) == comm.world_size


class _Source:
    """A checkpoint and the components it is loaded into."""

    def __init__(
        self, store: Store, manifest: Manifest, components: Components, touch: Callable[[], None]
    ) -> None:
        self._touch = touch
        self._store = store
        self._manifest = manifest
        self._components = components
        self._shared_bytes, self._own_bytes = map(state_bytes, components.state_dict())

    def __str__(self) -> str:
        return f"{self._store}/{self._manifest.directory}"

    def restore(self, rank: int) -> ReplayedEpisodes:
        """Load all of it. Returns how the environments replayed their episodes."""
        state = self._state(rank)
        segments = self._manifest.ranks[rank].segments

        def put_back() -> ReplayedEpisodes:
            ring = self._components.experience.ring
            if ring is not None:
                ring.load_state_dict(state.per_rank["replay"]["ring"])
                load_ring(self._store, segments, ring, self._touch)
            return self._components.load_state_dict(state)

        replayed: ReplayedEpisodes = restore_or_raise(put_back, str(self))
        return replayed

    def redistribute(self, config: Config, comm: Communicator) -> None:
        """Load everything except unfinished episodes into another number of ranks, and
        redistribute the transitions of all ranks.
        """

        def put_back() -> None:
            ranks = len(self._manifest.ranks)
            mine = comm.rank < ranks
            state = self._state(comm.rank % ranks)
            self._components.load_all_but_experience(state, mine=mine)
            if mine:
                self._components.experience.load_random_stream(state.per_rank["replay"])
                self._components.actor.load_random_streams(state.per_rank["actor"])
            del state
            self._fill(config, comm)

        restore_or_raise(put_back, str(self))

    def _fill(self, config: Config, comm: Communicator) -> None:
        """Start new episodes and, if there is a replay, take this rank's part of the old ones."""
        ranks = [self._own(rank) for rank in range(len(self._manifest.ranks))]
        played = max(int(own["actor"]["envs"]["episode_number"].max()) for own in ranks)
        experience = self._components.experience
        if not isinstance(experience, ReplayBuffer):
            self._components.actor.begin_episodes(1 + played)
            return
        replays = [_OldReplay(own["replay"]) for own in ranks]
        slots, priorities = redistribute(
            [
                SavedEnvironment(
                    old.rows(column),
                    self._frames(experience.ring.frame, rank, column, old.oldest[column]),
                )
                for rank, old in enumerate(replays)
                for column in range(old.num_envs)
            ],
            experience.ring,
            first=comm.rank * config.env.num_envs,
            count=comm.world_size * config.env.num_envs,
            frame_stack=config.env.frame_stack,
        )
        self._components.actor.begin_episodes(1 + played)
        highest = max(old.highest_priority for old in replays)
        experience.load_priorities(slots, priorities, highest)

    def _frames(
        self, frame: np.ndarray, rank: int, column: int, oldest: int
    ) -> Callable[[int, int], np.ndarray]:
        """Return a function that reads an old environment's frames, of the form of `frame`, counted
        from its oldest row.
        """
        segments = self._manifest.ranks[rank].segments

        def read(start: int, stop: int) -> np.ndarray:
            frames = np.empty((stop - start, frame.size), dtype=frame.dtype)
            first = oldest + start
            for row, some in read_rows(self._store, segments, column, first, oldest + stop, frame):
                frames[row - first : row - first + len(some)] = some
                self._touch()
            return frames

        return read

    def _state(self, rank: int) -> DistributedState:
        shared = load_state(self._store, self._manifest.shared, like=self._shared_bytes)
        return DistributedState(shared, self._own(rank))

    def _own(self, rank: int) -> State:
        self._touch()
        record = self._manifest.ranks[rank].state
        return load_state(self._store, record, like=self._own_bytes)


class _OldReplay:
    """The rows of a replay that a rank of the checkpoint held."""

    def __init__(self, replay: State) -> None:
        ring, sampler = replay["ring"], replay["sampler"]
        self._kinds = ring["kinds"].numpy()
        self._actions, self._rewards = ring["actions"].numpy(), ring["rewards"].numpy()
        self.num_envs, self._capacity = self._kinds.shape
        self._moved = ring["moved"].numpy()
        self.oldest = np.maximum(self._moved - self._capacity + 1, 0)
        self.highest_priority = float(sampler.get("highest_priority", 1.0))
        leaves = sampler.get("priorities")
        self._priorities = (
            np.zeros_like(self._rewards, dtype=np.float64)
            if leaves is None
            else leaves.numpy().reshape(self._kinds.shape)
        )

    def rows(self, column: int) -> RowData:
        """Return the rows of one environment, oldest first; the last is the one at the cursor."""
        numbers = np.arange(self.oldest[column], self._moved[column] + 1) % self._capacity
        kinds, actions, rewards, priorities = (
            values[column, numbers]
            for values in (self._kinds, self._actions, self._rewards, self._priorities)
        )
        return RowData(kinds, actions, rewards, priorities)
