"""The replay's loops over a batch, compiled.

Arrays are C-contiguous and of the types named here: float64 [·], int64 [·] and so on. `ValueError`
where their sizes do not fit each other, `IndexError` where an index is out of range; nothing has
been changed then.
"""

import numpy as np

LARGE: int
"""Bytes of a batch from which on it is copied past the caches."""

def set_leaves(tree: np.ndarray, index: np.ndarray, value: np.ndarray) -> None:
    """Give the leaves `index` [B] int64 of a binary `tree` [2·L] float64 the values [B] float64, in
    their order, and make every sum above them anew. The root is entry 1, the leaves are the last L.
    """

def draw_leaves(tree: np.ndarray, part: np.ndarray, found: np.ndarray, value: np.ndarray) -> None:
    """For each i of B, the leaf `found[i]` [B] int64 at which the running sum of leaves passes (i +
    part[i]) / B of the root's, `part` [B] float64 from 0 to before 1, and its value [B] float64:
    never one of zero.
    """

def weigh_leaves(value: np.ndarray, exponent: float, weight: np.ndarray) -> float:
    """Fill in (smallest / value)^exponent, [B] float32, of values [B] float64 > 0, B ≥ 1. The
    smallest.
    """

def value_priorities(
    priority: np.ndarray, least: float, exponent: float, value: np.ndarray
) -> float:
    """Fill in (priority + least)^exponent, [B] float64, of priorities [B] float32. The greatest, or
    NaN where a priority or its value is not finite.
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
    """Fill in whether a sample may start at the slots [B] int64 of a ring, and their `Windows`:
    kinds [N·T] uint8, cursor [N] and filled [N] int64; valid and terminated [B] bool, length and
    depth [B] int64.
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
    """Fill in the first M slots [M] int64 at which samples may start, and their windows as
    `find_windows` does, among the filled rows at places [P] float64, from 0 to before 1: all rows
    by environment and by age, the oldest first. How many there are, at most M.
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
    """Of windows that begin at these slots [B] int64, length [B] int64 and terminated [B] bool: the
    action [B] int64, Σ powers[k]·rewards[slot + k] over k < length, [B] float32, around the end of
    each environment's T rows, and powers[length] or, where terminated, zero, [B] float32. actions
    [N·T] int32, rewards [N·T] float32, powers [n + 1] float64. Whether all windows that are not
    terminated are of n steps.
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
    """Write a step at the cursors of a ring's N environments and move them one row on, to rows
    without a mark: actions [N·T] int32, rewards [N·T] float32, kinds [N·T] uint8; moved, cursor and
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
    """Copy the last `unit` bytes of each of `obs` [W, …] to the row of its environment, column and
    row [W] int64; `frames` [N, T + again, unit] has the first `again` of an environment's T rows
    twice.
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
    """Copy to each row of `out` [B, …] as many bytes, those of at most `again` + 1 neighbouring
    frames, as there are from `before` rows before the row `steps` after a slot on; zeros where a
    frame is older than `depth` rows before the slot. slot, steps (None: zeros) and depth [B] int64;
    `frames` as in `write_frames`; `out` of any type.
    """
