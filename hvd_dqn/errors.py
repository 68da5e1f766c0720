"""The two ways a run can end badly, and the exit code of each."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


class UserError(Exception):
    """What the user gave cannot work: one line saying what was given, what is expected and what to
    do.
    """


class RunError(Exception):
    """The run failed on every rank at the same update; the message names the first cause."""
