"""A saved replay shared out anew: other ranks, other environments, the same transitions.

The rows of every old environment are cut into pieces and laid end to end in the new ones. A piece
that ends within an episode ends as if truncated there, and keeps the next frame as its final
observation; one that begins within an episode keeps the frames before it for its first stacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.replay.ring import FINAL_OBS, FIRST_OBS, TRUNCATED, Ring


class Rows(NamedTuple):
    """Rows of one environment, oldest first: kinds, actions, rewards, priorities [L]."""

    kinds: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    priorities: np.ndarray


class OldEnvironment(NamedTuple):
    """Rows of one environment of a saved replay, the current observation last; `frames(a, b)` are
    those of its rows a to before b, [b − a, frame size].
    """

    rows: Rows
    frames: Callable[[int, int], np.ndarray]


class Piece(NamedTuple):
    """Rows `start` to before `stop` of an old environment, whose steps are to be drawn; `lead` is
    the first row whose frame they need.
    """

    column: int
    lead: int
    start: int
    stop: int


def share_out(
    old: Sequence[OldEnvironment], ring: Ring, *, first: int, count: int, frame_stack: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill an empty ring, whose environments are number `first` and on of `count` over all ranks:
    the slots that were filled [L], and their priorities [L]. `UserError` as in `cut`.
    """
    plan = cut(
        [env.rows.kinds for env in old], count=count, room=ring.rows, frame_stack=frame_stack
    )
    slots, priorities = [], []
    for column in range(len(ring.moved)):
        for piece in plan[first + column]:
            env = old[piece.column]
            rows = lay_out(piece, env.rows, frame_stack)
            frames = env.frames(piece.lead, piece.lead + len(rows.kinds))
            slots.append(ring.append(column, rows.kinds, rows.actions, rows.rewards, frames))
            priorities.append(rows.priorities)
    return np.concatenate(slots), np.concatenate(priorities)


def cut(
    kinds: Sequence[np.ndarray], *, count: int, room: int, frame_stack: int
) -> list[list[Piece]]:
    """Pieces for each of `count` new environments of `room` rows. `kinds` [L + 1] are those of the
    old ones, oldest first, the current observation last.

    Where not all fit, the oldest of every old one are left out. `UserError` where there are too few
    for every new environment to have some.
    """
    lengths = [len(rows) - 1 for rows in kinds]
    overhead = frame_stack * (2 + -(-len(kinds) // count))
    each = max(count * (room - overhead), 0) // len(kinds)
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
            lead = _lead(kinds[column], start, frame_stack)
            pieces[target].append(Piece(column, lead, start, stop))
            filled += stop - start
            start = stop
            target += filled == (target + 1) * total // count
    return pieces


def lay_out(piece: Piece, old: Rows, frame_stack: int) -> Rows:
    """A piece's rows as they stand in a new environment, from its lead to its final observation."""
    _, lead, start, stop = piece
    final = not old.kinds[stop - 1] & FINAL_OBS
    end = stop + int(final)
    kinds, actions, rewards, priorities = (values[lead:end].copy() for values in old)
    age = np.arange(lead, end)
    begun = np.maximum.accumulate((kinds & FIRST_OBS) != 0)
    no_start = (age < start) | (~begun & (age - lead < frame_stack - 1))
    if final:
        if not kinds[-1] & FINAL_OBS:
            kinds[-2] |= TRUNCATED
        kinds[-1] = FINAL_OBS
        no_start[-1] = True
    kinds[no_start] |= FINAL_OBS
    priorities[no_start] = 0
    return Rows(kinds, actions, rewards, priorities)


def _lead(kinds: np.ndarray, start: int, frame_stack: int) -> int:
    """The first row whose frame the stack at `start` needs, as far as it is still there."""
    lead = start
    while lead > max(0, start - frame_stack + 1) and not kinds[lead] & FIRST_OBS:
        lead -= 1
    return lead
