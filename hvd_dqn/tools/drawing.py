"""Matplotlib, used through its object interface: no window and no global state."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress


def load_matplotlib() -> None:
    """Import matplotlib, although the environment may not suit it. Call this before any other
    import of it.

    MPLBACKEND may name a backend that this Python does not have, such as a notebook's in a shell
    started from it; matplotlib then fails to import. A backend that it has stays chosen, for code
    that uses pyplot. Without a writable home, matplotlib uses a temporary directory and reports
    that in three lines, which are left out.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(max(level, logging.ERROR))
    try:
        import matplotlib
    finally:
        log.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
