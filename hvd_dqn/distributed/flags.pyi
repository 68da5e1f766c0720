"""Flags in shared memory on which processes wait (compiled).

`flags` is int64 [N, 8], C-contiguous. The first number of a row is the flag; the others pad it to a
cache line. The functions raise `ValueError` if `flags` does not consist of whole cache lines.
"""

import numpy as np

def raise_flag(flags: np.ndarray, which: int, value: int) -> None:
    """Set flag `which` to `value`. A process that sees the value also sees everything that this
    thread wrote before. Raises `IndexError` if `which` is out of range.
    """

def wait_for_flags(flags: np.ndarray, value: int) -> None:
    """Wait until all flags are at least `value`. Everything that their writers wrote before is then
    visible. Polls at first; after some milliseconds it sleeps between polls.
    """
