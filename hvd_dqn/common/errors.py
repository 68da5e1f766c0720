"""Exceptions that end a run, their exit codes, and how they are written on one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path

from hvd_dqn.common.names import closest_names

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75


class UserError(Exception):
    """The user's input or environment is at fault. One line says what was found and what to do."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found}: {remedy}" if remedy else found)
        self.found = found
        self.remedy = remedy


class ConfigError(UserError):
    """A setting has a value that it cannot have."""


class AgreedError(UserError):
    """A `UserError` that every rank raises with the same text; only the root prints it."""


class StoppedError(Exception):
    """The run was asked to stop and saved a checkpoint, on every rank at the same update."""


class StoppedByCallbackError(StoppedError):
    """Only callbacks asked the run to stop: it is over, and its result counts."""


class LostContactError(Exception):
    """A collective failed, usually because another rank died.

    `cause` is the library's message. `told` is what this rank prints, or `None` if another rank
    reports the failure.
    """

    def __init__(self, cause: str, told: str | None = None) -> None:
        super().__init__(told or cause)
        self.cause = cause
        self.told = told


class RunError(Exception):
    """The run failed on every rank at the same update; the message names the first cause."""


class LoneError(Exception):
    """An unexpected exception on this rank alone, during a run. `file` has its traceback, unless it
    could not be written.
    """

    def __init__(self, cause: Exception, file: Path | None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.file = file


def did_you_mean(name: str, choices: Iterable[str], otherwise: str = "") -> str:
    """Return the remedy for an unknown name: the closest choices; `otherwise`; or all choices."""
    choices = list(choices)
    close = [repr(choice) for choice in closest_names(name, choices)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return otherwise or f"choose one of {', '.join(choices)}"


def one_line(error: BaseException | str) -> str:
    """Return a message on one line: the text, or the exception's type if it has no text."""
    text = " ".join(str(error).split())
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")


def typed_line(error: BaseException) -> str:
    """Return `Type: message` on one line; without a message, where it was raised."""
    name, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)
    if str(error).strip() or not frames:
        return one_line(f"{name}: {error}")
    last = frames[-1]
    return one_line(f"{name} at {last.filename}:{last.lineno} ({last.line})")
