"""The ways a run can end badly, and the exit code of each."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75


class UserError(Exception):
    """What the user gave cannot work: in one line, what was given or found, and what to do."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found}: {remedy}" if remedy else found)
        self.found = found
        self.remedy = remedy


class ConfigError(UserError):
    """A setting has a value that it cannot have."""


class AgreedError(UserError):
    """A `UserError` that every rank raises alike: the root says it, and the others say nothing."""


class StoppedError(Exception):
    """The run was asked to stop and has saved a checkpoint, on every rank at the same update."""


class LostContactError(Exception):
    """A collective broke, mostly as another rank is gone. `cause` is what the library says, `told`
    what this rank should say of it, or nothing where another does.
    """

    def __init__(self, cause: str, told: str | None = None) -> None:
        super().__init__(told or cause)
        self.cause = cause
        self.told = told


class RunError(Exception):
    """The run failed on every rank at the same update; the message names the first cause."""
