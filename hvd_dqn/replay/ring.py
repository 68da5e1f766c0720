"""The ring of one rank stores every frame once and finds n-step windows when they are sampled.

Each environment has its own ring, `[N, T]` in all. A row holds a frame, the action taken on it, the
reward received, and whether the episode ended. An episode's final observation takes an extra row at
which no sample starts. So the observation m steps after row r is always row r + m of the same ring,
a truncated episode bootstraps from its true last observation, and a reset never looks like a
transition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from hvd_dqn.common.structs import EnvStep
from hvd_dqn.replay import kernels
from hvd_dqn.replay.batch_memory import BatchMemory, BatchTensors
from hvd_dqn.replay.frame_store import FrameStore

# Bits of a row's kind; the same as in kernels.c.
TERMINATED, TRUNCATED = np.uint8(1), np.uint8(2)
FINAL_OBS, FIRST_OBS = np.uint8(4), np.uint8(8)
_ROW_BYTES = 4 + 4 + 1  # action, reward, kind


class Windows(NamedTuple):
    """What can be sampled at B slots.

    length [B] of the n-step window, m ≤ n; terminated [B]: whether the episode terminates within
    it; depth [B]: number of earlier frames of the same episode in the stack, at most K − 1.
    """

    length: np.ndarray
    terminated: np.ndarray
    depth: np.ndarray


class Ring:
    """The last `capacity` rows of `num_envs` environments.

    A slot is the number of a row over all environments: environment · T + row.
    """

    def __init__(
        self,
        *,
        capacity: int,
        num_envs: int,
        frame_shape: tuple[int, ...],
        obs_dtype: np.dtype,
        frame_stack: int,
        n_step: int,
        device: torch.device,
    ) -> None:
        # One extra row: the row at the cursor holds the current observation, not yet a transition.
        self.rows = capacity // num_envs + 1
        self.num_slots = self.slots_needed(capacity=capacity, num_envs=num_envs)
        self._n_step = n_step
        self._stack = frame_stack
        self._frames = FrameStore(
            num_envs=num_envs,
            rows=self.rows,
            frame_shape=frame_shape,
            dtype=obs_dtype,
            span=self.span(frame_stack, n_step),
            device=device,
        )
        self._actions = np.zeros((num_envs, self.rows), dtype=np.int32)
        self._rewards = np.zeros((num_envs, self.rows), dtype=np.float32)
        self._kinds = np.zeros((num_envs, self.rows), dtype=np.uint8)
        self._moved = np.zeros(num_envs, dtype=np.int64)
        self._cursor = np.zeros(num_envs, dtype=np.int64)
        self._filled = np.zeros(num_envs, dtype=np.int64)
        self._columns = np.arange(num_envs)
        self._span = self.span(frame_stack, n_step)

    @staticmethod
    def span(frame_stack: int, n_step: int) -> int:
        """Return the most frames that one read takes: a stack, or both stacks of a sample if they
        overlap.
        """
        return frame_stack + (n_step if n_step < frame_stack else 0)

    @staticmethod
    def slots_needed(*, capacity: int, num_envs: int) -> int:
        """Return the number of slots of a ring with these settings."""
        return num_envs * (capacity // num_envs + 1)

    @staticmethod
    def bytes_needed(
        *,
        capacity: int,
        num_envs: int,
        frame_shape: tuple[int, ...],
        obs_dtype: np.dtype,
        frame_stack: int,
        n_step: int,
    ) -> int:
        """Return the bytes that a full ring with these settings takes."""
        rows = capacity // num_envs + 1
        frames = FrameStore.bytes_needed(
            num_envs=num_envs,
            rows=rows,
            frame_shape=frame_shape,
            dtype=obs_dtype,
            span=Ring.span(frame_stack, n_step),
        )
        return frames + num_envs * rows * _ROW_BYTES

    @property
    def max_invalid_rows(self) -> int:
        """An environment with more filled rows than this has at least one valid slot."""
        return 2 * (self._n_step + self._stack) + 2

    @property
    def filled(self) -> np.ndarray:
        """Rows of each environment with steps or final observations, without the one at the cursor,
        [N].
        """
        return self._filled

    def start(self, obs: np.ndarray) -> None:
        """Add the first observations [N, K·C, …] of new episodes: before the first `add`, and after
        `append`.
        """
        self._kinds[self._columns, self._cursor] = FIRST_OBS
        self._write(self._columns, obs)

    def add(self, action: np.ndarray, step: EnvStep) -> None:
        """Add one step of N environments with these actions [N], or of those that stepped; it can
        be sampled at once, unless it was skipped.
        """
        if step.stepped is not None:
            columns = np.flatnonzero(step.stepped)
            self._take_steps(columns, action, step)
            self._write(columns, step.next_obs[columns])
            self._start_again(np.flatnonzero(step.stepped & step.ended), step.obs)
            return
        kernels.take_steps(
            self._actions,
            self._rewards,
            self._kinds,
            self._moved,
            self._cursor,
            self._filled,
            action,
            step.reward,
            step.terminated,
            step.truncated,
        )
        self._frames.write(self._columns, self._cursor, step.next_obs)
        if step.skipped is not None:
            columns = np.flatnonzero(step.skipped)
            self._kinds[columns, (self._cursor[columns] - 1) % self.rows] = FINAL_OBS
            self._kinds[columns, self._cursor[columns]] = FIRST_OBS
        if np.count_nonzero(step.ended):
            self._start_again(np.flatnonzero(step.ended), step.obs)

    def _take_steps(self, columns: np.ndarray, action: np.ndarray, step: EnvStep) -> None:
        """Do for some environments what the kernel does for all."""
        place = columns, self._cursor[columns]
        self._actions[place] = action[columns]
        self._rewards[place] = step.reward[columns]
        for kind, flags in ((TERMINATED, step.terminated), (TRUNCATED, step.truncated)):
            self._kinds[place] |= kind * flags[columns].astype(np.uint8)
        self._advance(columns, kind=0)

    def _start_again(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """Start the next episodes of these environments, whose last observations are written, with
        their `obs` [N, …].
        """
        self._kinds[columns, self._cursor[columns]] = FINAL_OBS
        self._advance(columns, kind=FIRST_OBS)
        self._write(columns, obs[columns])

    def truncate(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """Truncate the episodes of these environments [C], which cannot continue: the last
        observation becomes the final one, and `obs` [C, …] the first of the next episodes.
        """
        begun = (self._kinds[columns, self._cursor[columns]] & FIRST_OBS) == 0
        going = columns[begun]
        self._kinds[going, (self._cursor[going] - 1) % self.rows] |= TRUNCATED
        self._kinds[going, self._cursor[going]] = FINAL_OBS
        self._advance(going, kind=FIRST_OBS)
        self._write(columns, obs)

    def slots_at(self, column: np.ndarray, age: np.ndarray) -> np.ndarray:
        """Return the slots of the rows that are `age` rows before their environments' cursors; age
        0 is the row at the cursor.
        """
        slots: np.ndarray = column * self.rows + (self._cursor[column] - age) % self.rows
        return slots

    def draw(self, place: np.ndarray, most: int) -> tuple[np.ndarray, Windows]:
        """Return up to `most` valid slots and their windows.

        `place` [P] in [0, 1) selects among all filled rows, ordered by environment, then age;
        invalid rows are skipped.
        """
        slot, windows = np.empty(most, dtype=np.int64), self._new_windows(most)
        count = kernels.draw_windows(
            self._kinds,
            self._cursor,
            self._filled,
            place,
            self.rows,
            self._n_step,
            self._stack,
            slot,
            *windows,
        )
        if count == most:
            return slot, windows
        return slot[:count], Windows(*(values[:count] for values in windows))

    def ages(self, slot: np.ndarray) -> np.ndarray:
        """Return the number of rows from each slot [B] to its environment's cursor, [B]."""
        column, row = np.divmod(slot, self.rows)
        ages: np.ndarray = (self._cursor[column] - row) % self.rows
        return ages

    def slots_at_edges(self) -> np.ndarray:
        """Return the slots whose validity the last `add` may have changed: those of the newest
        windows, those that lost a frame of their stack, and those that were overwritten.
        """
        newest = np.arange(self._n_step + 2)
        oldest = self._filled[:, None] - np.arange(self._stack - 1)
        ages = np.concatenate(
            (np.broadcast_to(newest, (len(self._columns), len(newest))), oldest), axis=1
        )
        columns = np.repeat(self._columns, ages.shape[1])
        return self.slots_at(columns, ages.reshape(-1))

    def windows(self, slot: np.ndarray) -> tuple[np.ndarray, Windows]:
        """Return whether the slots [B] are valid, [B] bool, and their windows."""
        valid, windows = np.empty(len(slot), dtype=np.bool_), self._new_windows(len(slot))
        kernels.find_windows(
            self._kinds,
            self._cursor,
            self._filled,
            slot,
            self.rows,
            self._n_step,
            self._stack,
            valid,
            *windows,
        )
        return valid, windows

    @staticmethod
    def _new_windows(count: int) -> Windows:
        return Windows(
            length=np.empty(count, dtype=np.int64),
            terminated=np.empty(count, dtype=np.bool_),
            depth=np.empty(count, dtype=np.int64),
        )

    def new_memory(self, count: int, device: torch.device) -> BatchMemory:
        """Allocate memory for `count` samples that a learner on `device` will use."""
        pinned = device.type == "cuda"  # for asynchronous copies
        frames = partial(self._frames.new_memory, count, pinned=pinned)
        return BatchMemory(
            frames(self._stack),
            frames(self._stack),
            frames(self._span) if self._span > self._stack else None,
            torch.empty(count, dtype=torch.int64, pin_memory=pinned),
            torch.empty(3, count, pin_memory=pinned),
            device=device,
        )

    def read(
        self, slot: np.ndarray, windows: Windows, powers: np.ndarray, memory: BatchMemory
    ) -> BatchTensors:
        """Read the samples at slots [B], except their weights, into `memory`; return all tensors.

        `powers` [n + 1] float64 are those of γ. `obs` are the observations at the slots, `next_obs`
        those at the ends of the windows; they may share memory. Frames from before an episode's
        first are zeros. If a window is terminated, its `next_obs` is arbitrary but finite, since
        nothing bootstraps from it.
        """
        full_length = kernels.read_steps(
            self._actions,
            self._rewards,
            slot,
            windows.length,
            windows.terminated,
            self.rows,
            powers,
            memory.action,
            memory.reward,
            memory.discount,
        )
        depth, before = windows.depth, self._stack - 1
        if full_length and memory.both is not None:
            self._frames.read(slot, None, depth, before, out=memory.both)
            return memory.tensors(True)
        self._frames.read(slot, None, depth, before, out=memory.obs)
        self._frames.read(slot, windows.length, depth, before, out=memory.next_obs)
        return memory.tensors(False)

    @property
    def observation_bytes(self) -> int:
        """Bytes of one observation with all frames of its stack."""
        return self._stack * self.frame.nbytes

    @property
    def moved(self) -> np.ndarray:
        """Number of the row at each environment's cursor, counted from the start of the run, [N].
        Row number r is stored at r modulo T.
        """
        return self._moved

    @property
    def oldest(self) -> np.ndarray:
        """Number of the oldest row that each environment still stores, [N]."""
        return self._moved - self._filled

    @property
    def frame(self) -> np.ndarray:
        """A stored frame, [size]: an example of its type and size."""
        frame: np.ndarray = self._frames.contiguous(0, 0, 1)[0]
        return frame

    def frames(self, column: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the frames of one environment's rows from number `start` up to, not including,
        `stop`, in arrays [W, frame size]; on the host these are views of the ring's memory.
        """
        while start < stop:
            row = start % self.rows
            count = min(stop - start, self.rows - row, self._frames.max_contiguous_rows)
            yield self._frames.contiguous(column, row, count)
            start += count

    def append(
        self,
        column: int,
        kinds: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        frames: np.ndarray,
    ) -> np.ndarray:
        """Append rows [L] to one environment at its cursor; return their slots [L]. Call `start`
        afterwards.
        """
        first = int(self._moved[column])
        rows = (first + np.arange(len(kinds))) % self.rows
        self._kinds[column, rows] = kinds
        self._actions[column, rows] = actions
        self._rewards[column, rows] = rewards
        self.put_frames(column, first, frames)
        self._moved[column] += len(kinds)
        self._find_cursors()
        slots: np.ndarray = column * self.rows + rows
        return slots

    def put_frames(self, column: int, start: int, frames: np.ndarray) -> None:
        """Write frames [W, frame size] to one environment's rows from number `start` on."""
        rows = (start + np.arange(len(frames))) % self.rows
        self._frames.write(np.full(len(frames), column), rows, frames)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything except the frames, as tensors."""
        return {name: torch.from_numpy(values) for name, values in self._arrays().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the `state_dict` of a ring with the same settings."""
        for name, values in self._arrays().items():
            values[...] = state[name].numpy()
        self._find_cursors()

    def _find_cursors(self) -> None:
        self._cursor = self._moved % self.rows
        self._filled = np.minimum(self._moved, self.rows - 1)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "actions": self._actions,
            "rewards": self._rewards,
            "kinds": self._kinds,
            "moved": self._moved,
        }

    def _write(self, columns: np.ndarray, obs: np.ndarray) -> None:
        self._frames.write(columns, self._cursor[columns], obs)

    def _advance(self, columns: np.ndarray, *, kind: int | np.uint8) -> None:
        """Move these cursors one row on, to the oldest row, which is given up."""
        self._moved[columns] += 1
        self._cursor[columns] = self._moved[columns] % self.rows
        self._kinds[columns, self._cursor[columns]] = kind
        self._filled[columns] = np.minimum(self._moved[columns], self.rows - 1)
