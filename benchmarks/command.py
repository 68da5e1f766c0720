"""What the command lines of these scripts have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from hvd_dqn.common.errors import RunError, UserError


def at_least(minimum: int) -> Callable[[str], int]:
    """A type for argparse: an integer of `minimum` or more."""

    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        return value

    return integer


def execute(main: Callable[[], None]) -> None:
    """Run a script; end it with one line if an expected error occurs."""
    try:
        main()
    except (UserError, RunError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
