"""The replay's loops over a batch, compiled.

Arrays are C-contiguous and of the types given here: float64 [·], int64 [·] and so on. Functions
raise `ValueError` if sizes do not match, `IndexError` if an index is out of range, and then change
nothing.
"""

import numpy as np

LARGE: int
"""Batches of at least this many bytes are written past the caches."""

def set_leaves(tree: np.ndarray, index: np.ndarray, value: np.ndarray) -> None:
    """Set the leaves `index` [B] int64 of a binary `tree` [2·L] float64 to `value` [B] float64, in
    order, and recompute all sums above them. The root is entry 1; the leaves are the last L
    entries.
    """

def draw_leaves(tree: np.ndarray, part: np.ndarray, found: np.ndarray, value: np.ndarray) -> None:
    """For each i < B, search the leaf where the running sum of leaves passes (i + part[i]) / B of
    the total; never a leaf of zero. `part` [B] float64 is in [0, 1). Writes the index to `found`
    [B] int64 and the leaf to `value` [B] float64.
    """

def weigh_leaves(value: np.ndarray, exponent: float, weight: np.ndarray) -> float:
    """Write (smallest / value)^exponent to `weight` [B] float32, for `value` [B] float64 > 0, B ≥
    1. Returns the smallest value.
    """

def value_priorities(
    priority: np.ndarray, least: float, exponent: float, value: np.ndarray
) -> float:
    """Write (priority + least)^exponent to `value` [B] float64, for `priority` [B] float32. Returns
    the greatest, or NaN if a priority or a value is not finite.
    """

def find_windows(
    kinds: np.ndarray,
    cursor: np.ndarray,
    filled: np.ndarray,
    slot: np.ndarray,
    rows: int,
    n_step: int,
    stack: int,
    valid: np.ndarray,
    length: np.ndarray,
    terminated: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Write whether a sample may start at the slots `slot` [B] int64 of a ring to `valid`, and
    their `Windows` to the other arrays. kinds [N·T] uint8, cursor [N] and filled [N] int64; valid
    and terminated [B] bool, length and depth [B] int64.
    """

def draw_windows(
    kinds: np.ndarray,
    cursor: np.ndarray,
    filled: np.ndarray,
    place: np.ndarray,
    rows: int,
    n_step: int,
    stack: int,
    slot: np.ndarray,
    length: np.ndarray,
    terminated: np.ndarray,
    depth: np.ndarray,
) -> int:
    """Select filled rows by `place` [P] float64 in [0, 1), among all rows ordered by environment
    and age, oldest first. Write the first M valid slots to `slot` [M] int64 and their windows as
    `find_windows` does. Returns how many there are, at most M.
    """

def read_steps(
    actions: np.ndarray,
    rewards: np.ndarray,
    slot: np.ndarray,
    length: np.ndarray,
    terminated: np.ndarray,
    rows: int,
    powers: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    discount: np.ndarray,
) -> bool:
    """Read the steps of windows that start at `slot` [B] int64, with length [B] int64 and
    terminated [B] bool.

    Writes the action [B] int64; the reward Σ powers[k]·rewards[slot + k] over k < length, [B]
    float32, continuing at the first row after an environment's last; and the discount [B] float32,
    powers[length] or 0 if terminated. actions [N·T] int32, rewards [N·T] float32, powers [n + 1]
    float64. Returns whether all windows that are not terminated have n steps.
    """

def take_steps(
    actions: np.ndarray,
    rewards: np.ndarray,
    kinds: np.ndarray,
    moved: np.ndarray,
    cursor: np.ndarray,
    filled: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
) -> None:
    """Write a step at the cursors of a ring's N environments and advance the cursors, to rows whose
    kind is 0. actions [N·T] int32, rewards [N·T] float32, kinds [N·T] uint8; moved, cursor and
    filled [N] int64; action [N] int64, reward [N] float32, terminated and truncated [N] bool.
    """

def write_frames(
    frames: np.ndarray,
    rows: int,
    again: int,
    column: np.ndarray,
    row: np.ndarray,
    obs: np.ndarray,
    unit: int,
) -> None:
    """Copy the last `unit` bytes of each of `obs` [W, …] to row `row` [W] of environment `column`
    [W], both int64. `frames` [N, T + again, unit] stores the first `again` of an environment's T
    rows twice.
    """

def copy_stretches(
    frames: np.ndarray,
    rows: int,
    again: int,
    unit: int,
    slot: np.ndarray,
    steps: np.ndarray | None,
    depth: np.ndarray,
    before: int,
    out: np.ndarray,
) -> None:
    """Copy consecutive frames to each row of `out` [B, …], which holds at most `again` + 1 of them,
    of any type. The first is `before` rows before the row that is `steps` (0 if None) after the
    slot. Frames more than `depth` rows before the slot are set to zero. slot, steps and depth [B]
    int64; `frames` as in `write_frames`.
    """
