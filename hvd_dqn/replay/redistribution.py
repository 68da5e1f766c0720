"""Redistributes saved replays over another number of ranks and environments, keeping all
transitions that fit.

The rows of every saved environment are split into pieces, which are appended to each other in the
new environments. A piece that ends within an episode is truncated there, with the next frame as its
final observation. A piece that starts within an episode also takes the frames before it, for its
first stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.replay.ring import FINAL_OBS, FIRST_OBS, TRUNCATED, Ring


class RowData(NamedTuple):
    """Rows of one environment, oldest first: kinds, actions, rewards and priorities, each [L]."""

    kinds: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    priorities: np.ndarray


class SavedEnvironment(NamedTuple):
    """Rows of one environment of a saved replay, the current observation last. `frames(a, b)`
    returns the frames [b − a, frame size] of rows a up to, not including, b.
    """

    rows: RowData
    frames: Callable[[int, int], np.ndarray]


class Piece(NamedTuple):
    """Rows `start` up to, not including, `stop` of a saved environment (`column`), and
    `first_frame` ≤ `start`, the first row whose frame their stacks need.
    """

    column: int
    first_frame: int
    start: int
    stop: int


def redistribute(
    saved: Sequence[SavedEnvironment], ring: Ring, *, first: int, count: int, frame_stack: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill an empty ring with its part of the `saved` environments.

    The ring's environments are number `first` and following of `count` over all ranks. Returns the
    filled slots [L] and their priorities [L]. Raises `UserError` as `plan_pieces` does.
    """
    plan = plan_pieces(
        [env.rows.kinds for env in saved], count=count, capacity=ring.rows, frame_stack=frame_stack
    )
    slots, priorities = [], []
    for column in range(len(ring.moved)):
        for piece in plan[first + column]:
            env = saved[piece.column]
            rows = extract(piece, env.rows, frame_stack)
            frames = env.frames(piece.first_frame, piece.first_frame + len(rows.kinds))
            slots.append(ring.append(column, rows.kinds, rows.actions, rows.rewards, frames))
            priorities.append(rows.priorities)
    return np.concatenate(slots), np.concatenate(priorities)


def plan_pieces(
    kinds: Sequence[np.ndarray], *, count: int, capacity: int, frame_stack: int
) -> list[list[Piece]]:
    """Return the pieces for each of `count` new environments with `capacity` rows each.

    `kinds` [L + 1] are those of the saved environments, oldest first, the current observation last.
    If not all rows fit, the oldest of every saved environment are dropped. Raises `UserError` if
    there are too few rows for `count` environments.
    """
    lengths = [len(rows) - 1 for rows in kinds]
    overhead = frame_stack * (2 + -(-len(kinds) // count))
    each = max(count * (capacity - overhead), 0) // len(kinds)
    starts = [max(0, length - each) for length in lengths]
    total = sum(lengths) - sum(starts)
    if total < count * (2 * frame_stack + 2):
        raise UserError(
            f"the saved replay has {total} steps, too few for {count} environments over all ranks",
            "resume on fewer ranks",
        )
    pieces: list[list[Piece]] = [[] for _ in range(count)]
    filled, target = 0, 0
    for column, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        while start < length:
            stop = min(length, start + (target + 1) * total // count - filled)
            first_frame = _first_frame(kinds[column], start, frame_stack)
            pieces[target].append(Piece(column, first_frame, start, stop))
            filled += stop - start
            start = stop
            target += filled == (target + 1) * total // count
    return pieces


def extract(piece: Piece, rows: RowData, frame_stack: int) -> RowData:
    """Return a piece's rows as they are stored in the new environment, from `first_frame` to its
    final observation.
    """
    _, first_frame, start, stop = piece
    final = not rows.kinds[stop - 1] & FINAL_OBS
    end = stop + int(final)
    kinds, actions, rewards, priorities = (values[first_frame:end].copy() for values in rows)
    age = np.arange(first_frame, end)
    begun = np.maximum.accumulate((kinds & FIRST_OBS) != 0)
    no_start = (age < start) | (~begun & (age - first_frame < frame_stack - 1))
    if final:
        if not kinds[-1] & FINAL_OBS:
            kinds[-2] |= TRUNCATED
        kinds[-1] = FINAL_OBS
        no_start[-1] = True
    kinds[no_start] |= FINAL_OBS
    priorities[no_start] = 0
    return RowData(kinds, actions, rewards, priorities)


def _first_frame(kinds: np.ndarray, start: int, frame_stack: int) -> int:
    """Return the first row whose frame the stack at `start` needs and that is still stored."""
    first_frame = start
    while first_frame > max(0, start - frame_stack + 1) and not kinds[first_frame] & FIRST_OBS:
        first_frame -= 1
    return first_frame
