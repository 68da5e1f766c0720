"""The ring of one rank: every frame once, windows found when sampled.

Each environment has a ring of its own, `[N, T]` in all. A row holds a frame, the action taken on
it, the reward it gave and how it ended. An episode's final observation takes a row of its own that
no sample starts at; so the observation m steps after row r is always row r + m of the same ring, a
truncated episode bootstraps from what was really seen last, and no reset is ever mistaken for a
transition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from hvd_dqn.replay import kernels
from hvd_dqn.replay.frame_store import FrameStore
from hvd_dqn.replay.samples import SampleMemory, Tensors

# Bits of a row's kind, as in kernels.c.
TERMINATED, TRUNCATED = np.uint8(1), np.uint8(2)
FINAL_OBS, FIRST_OBS = np.uint8(4), np.uint8(8)
_ROW_BYTES = 4 + 4 + 1  # action, reward, kind


class Windows(NamedTuple):
    """What can be read from B rows.

    length [B] of the n-step window, m ≤ n; terminated [B] within it; depth [B]: frames of the same
    episode before the row, at most K − 1.
    """

    length: np.ndarray
    terminated: np.ndarray
    depth: np.ndarray


class Ring:
    """The last `capacity` rows of `num_envs` environments.

    A slot is a row's number over all environments: environment · T + row.
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
        # One row more than asked for: the row at the cursor holds the current observation, not yet
        # a transition.
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
        """The most frames that one read takes: a stack, or a sample's two where they overlap."""
        return frame_stack + (n_step if n_step < frame_stack else 0)

    @staticmethod
    def slots_needed(*, capacity: int, num_envs: int) -> int:
        """Slots of a ring of these settings."""
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
        """What a ring of these settings takes when it is full, in bytes."""
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
    def most_invalid_rows(self) -> int:
        """With more rows than this, an environment has at least one valid start."""
        return 2 * (self._n_step + self._stack) + 2

    @property
    def filled(self) -> np.ndarray:
        """Rows behind each environment's cursor that hold steps or final observations, [N]."""
        return self._filled

    def start(self, obs: np.ndarray) -> None:
        """Take the first observations [N, K·C, …] of new episodes; before the first `add`, and
        after rows were put in by `append`.
        """
        self._kinds[self._columns, self._cursor] = FIRST_OBS
        self._write(self._columns, obs)

    def add(
        self,
        *,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        ended: np.ndarray,
        next_obs: np.ndarray,
        obs: np.ndarray,
    ) -> None:
        """Add one step of N environments (see `EnvStep`), at once there to be sampled."""
        kernels.take_steps(
            self._actions,
            self._rewards,
            self._kinds,
            self._moved,
            self._cursor,
            self._filled,
            action,
            reward,
            terminated,
            truncated,
        )
        self._frames.write(self._columns, self._cursor, next_obs)
        if np.count_nonzero(ended):
            again = np.flatnonzero(ended)
            self._kinds[again, self._cursor[again]] = FINAL_OBS
            self._advance(again, kind=FIRST_OBS)
            self._write(again, obs[again])

    def cut(self, columns: np.ndarray, obs: np.ndarray) -> None:
        """The episodes of these environments [C] cannot go on: what was seen last becomes their
        final observation, as if truncated there, and `obs` [C, …] the first of the next ones.
        """
        begun = (self._kinds[columns, self._cursor[columns]] & FIRST_OBS) == 0
        going = columns[begun]
        self._kinds[going, (self._cursor[going] - 1) % self.rows] |= TRUNCATED
        self._kinds[going, self._cursor[going]] = FINAL_OBS
        self._advance(going, kind=FIRST_OBS)
        self._write(columns, obs)

    def slots_at(self, column: np.ndarray, age: np.ndarray) -> np.ndarray:
        """Slots of the rows `age` rows behind their environments' cursors; 0 is the cursor's."""
        slots: np.ndarray = column * self.rows + (self._cursor[column] - age) % self.rows
        return slots

    def draw(self, place: np.ndarray, most: int) -> tuple[np.ndarray, Windows]:
        """The first slots, at most so many, at which samples may start among the filled rows at
        these places [P], from 0 to before 1 of all by environment and by age; and their windows.
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
        """Rows from these slots [B] to their environments' cursors, [B]."""
        column, row = np.divmod(slot, self.rows)
        ages: np.ndarray = (self._cursor[column] - row) % self.rows
        return ages

    def slots_at_edges(self) -> np.ndarray:
        """Slots of all rows whose validity the last `add` may have changed: those of the newest
        window, those that a lost frame belonged to, and the rows given up.
        """
        newest = np.arange(self._n_step + 2)
        oldest = self._filled[:, None] - np.arange(self._stack - 1)
        ages = np.concatenate(
            (np.broadcast_to(newest, (len(self._columns), len(newest))), oldest), axis=1
        )
        columns = np.repeat(self._columns, ages.shape[1])
        return self.slots_at(columns, ages.reshape(-1))

    def windows(self, slot: np.ndarray) -> tuple[np.ndarray, Windows]:
        """Whether samples may start at these slots [B], [B] bool, and what can be read there."""
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

    def new_memory(self, count: int, device: torch.device) -> SampleMemory:
        """Memory for `count` samples for a learner on that device."""
        pinned = device.type == "cuda"  # copied from without waiting
        frames = partial(self._frames.new_memory, count, pinned=pinned)
        return SampleMemory(
            frames(self._stack),
            frames(self._stack),
            frames(self._span) if self._span > self._stack else None,
            torch.empty(count, dtype=torch.int64, pin_memory=pinned),
            torch.empty(3, count, pin_memory=pinned),
            device=device,
        )

    def read(
        self, slot: np.ndarray, windows: Windows, powers: np.ndarray, memory: SampleMemory
    ) -> Tensors:
        """Samples whose windows begin at these slots [B], all but the weight; `powers` [n + 1]
        float64 are γ's. Observations are those at the slots and at the ends of their windows, and
        may overlap in memory. Frames from before an episode's first are zeros.

        Where a window is terminated, what comes after may be anything finite: nothing is
        bootstrapped from it.
        """
        alike = kernels.read_steps(
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
        if alike and memory.both is not None:
            self._frames.read(slot, None, depth, before, out=memory.both)
            return memory.tensors(True)
        self._frames.read(slot, None, depth, before, out=memory.obs)
        self._frames.read(slot, windows.length, depth, before, out=memory.next_obs)
        return memory.tensors(False)

    @property
    def observation_bytes(self) -> int:
        """Of one observation, with all frames of its stack."""
        return self._stack * self.frame.nbytes

    @property
    def moved(self) -> np.ndarray:
        """Rows that each environment's cursor has moved over since the start, [N]; row number r of
        them stands at r modulo the ring's rows.
        """
        return self._moved

    @property
    def oldest(self) -> np.ndarray:
        """Number of the oldest row that each environment still has, [N]."""
        return self._moved - self._filled

    @property
    def frame(self) -> np.ndarray:
        """A frame as it is kept, [size]: its type and its bytes."""
        frame: np.ndarray = self._frames.stretch(0, 0, 1)[0]
        return frame

    def frames(self, column: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Frames of this environment's rows number `start` to before `stop`, in arrays
        [W, frame size], which are the ring's own memory where that is the host's.
        """
        while start < stop:
            row = start % self.rows
            count = min(stop - start, self.rows - row, self._frames.most_in_a_stretch)
            yield self._frames.stretch(column, row, count)
            start += count

    def append(
        self,
        column: int,
        kinds: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        frames: np.ndarray,
    ) -> np.ndarray:
        """Put whole rows [L] at this environment's cursor and on, and the cursor behind them: their
        slots [L]. `start` comes after it.
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
        """Put frames [W, frame size] at this environment's rows number `start` and on."""
        rows = (start + np.arange(len(frames))) % self.rows
        self._frames.write(np.full(len(frames), column), rows, frames)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything but the frames, as tensors."""
        return {name: torch.from_numpy(values) for name, values in self._arrays().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state_dict` gave, of a ring of the same settings."""
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
        """Move these cursors one row on; the row they come to is the oldest one, given up."""
        self._moved[columns] += 1
        self._cursor[columns] = self._moved[columns] % self.rows
        self._kinds[columns, self._cursor[columns]] = kind
        self._filled[columns] = np.minimum(self._moved[columns], self.rows - 1)
