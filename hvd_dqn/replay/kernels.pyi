"""The replay's loops over a batch, compiled.

Arrays are C-contiguous and of the types named here: float64 [·], int64 [·] and so on. `ValueError`
where their sizes do not fit each other, `IndexError` where an index is out of range; nothing has
been changed then.
"""

import numpy as np

def set_leaves(tree: np.ndarray, index: np.ndarray, value: np.ndarray) -> None:
    """Give the leaves `index` [B] int64 of a binary `tree` [2·L] float64 the values [B] float64, in
    their order, and make every sum above them anew. The root is entry 1, the leaves are the last L.
    """

def find_leaves(tree: np.ndarray, sums: np.ndarray, found: np.ndarray) -> None:
    """For each of `sums` [B] float64, between zero and the root's, the leaf [B] int64 at which the
    running sum of leaves passes it: never one of zero. `sums` are used up.
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
    """Fill in a `Windows` of the slots [B] int64 of a ring: kinds [N·T] uint8, cursor [N] and
    filled [N] int64; valid and terminated [B] bool, length and depth [B] int64.
    """

def sum_rewards(
    rewards: np.ndarray,
    slot: np.ndarray,
    length: np.ndarray,
    rows: int,
    powers: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Σ powers[k]·rewards[slot + k] over k < length, [B] float32, around the end of each
    environment's T rows: rewards [N·T] float32, slot and length [B] int64, powers [n] float64.
    """

def copy_stretches(
    source: np.ndarray, first: np.ndarray, missing: np.ndarray, unit: int, out: np.ndarray
) -> None:
    """Copy to each row of `out` [B, …] as many bytes of `source` from byte first·unit on, but zeros
    for the row's first missing·unit bytes: first and missing [B] int64, missing perhaps negative,
    `source` and `out` of any type.
    """
