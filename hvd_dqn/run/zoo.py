"""Trained policies that a clone of the project has: `zoo:NAME` stands for a run directory.

Each has the settings, the facts, the records and the chosen network of a run, without its
checkpoints, and a card. `benchmarks/zoo.py` collects them from the runs of `benchmarks/scores.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError, did_you_mean
from hvd_dqn.common.files import absolute, read_bounded

PREFIX = "zoo:"
_VARIABLE = "HVD_DQN_ZOO"
_CARD = "card.json"
_LIMIT = 1 << 20


def located(path: Path) -> Path:
    """Return the run directory that `zoo:NAME` stands for, and any other path as it is.

    Raises `UserError` if there is no such policy.
    """
    if not str(path).startswith(PREFIX):
        return path
    name = str(path).removeprefix(PREFIX)
    if name not in policy_names():
        raise UserError(f"there is no policy {str(path)!r}", did_you_mean(name, policy_names()))
    return _directory() / name


def is_policy(path: Path) -> bool:
    """Whether `path` is `zoo:NAME` or the directory of a policy."""
    if str(path).startswith(PREFIX):
        return True
    return absolute(path).resolve().parent == _directory().resolve()


def place_for_files(path: Path) -> Path:
    """Return where commands write files about a run by default: into its directory, and for a
    policy into one of its name in the working directory.
    """
    return Path(Path(str(path).removeprefix(PREFIX)).name) if is_policy(path) else path


def policy_names() -> list[str]:
    """Return the names of all policies, sorted. Raises `UserError` if no zoo is found."""
    directory = _directory()
    names = sorted(card.parent.name for card in directory.glob(f"*/{_CARD}"))
    if not names:
        raise UserError(
            f"no policies are in {directory}",
            f"clone the project's repository; {_VARIABLE} names another directory of policies",
        )
    return names


def read_card(name: str) -> dict[str, Any]:
    """Return what is known of a policy: see `benchmarks/zoo.py`.

    Raises `UserError` if there is no such policy, or if its card is damaged.
    """
    file = located(Path(PREFIX + name)) / _CARD
    try:
        card = json.loads(read_bounded(file, _LIMIT))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return dict(card)


def _directory() -> Path:
    """Return the directory of policies: that of the clone from which this package is imported."""
    clone = Path(__file__).parents[2]
    return absolute(Path(os.environ.get(_VARIABLE) or clone / "benchmarks/zoo"))
