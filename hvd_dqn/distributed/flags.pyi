"""Numbers in shared memory for which processes wait, compiled.

Flags are int64 [N, 8], C-contiguous: the first number of each row counts, the others fill its cache
line. `ValueError` where they are no whole number of such lines, `IndexError` where there is no such
flag.
"""

import numpy as np

def raise_flag(flags: np.ndarray, which: int, value: int) -> None:
    """Give one flag a value, which is seen after all that this thread wrote before."""

def wait_for_flags(flags: np.ndarray, value: int) -> None:
    """Return when all flags are at `value` or above; what their writers wrote before is seen then.
    Busy at first; after some milliseconds it sleeps between looks.
    """
