"""Code from outside the package that a run's configuration names."""

from __future__ import annotations

import sys
from pathlib import Path

from hvd_dqn.config import Config
from hvd_dqn.envs.make import FAMILIES

_OF_NETWORKS = ("objective.distribution", "network.torso")
_KNOWN = {"hvd_dqn", "gymnasium", *(family.module.partition(".")[0] for family in FAMILIES)}
_announced: set[str] = set()


def announce_network_code(config: Config, run_dir: Path) -> None:
    """Print one line, once, if `module:function` of another package is about to make the network of
    the run in `run_dir`, which may be somebody else's.
    """
    _announce(config, run_dir, _OF_NETWORKS)


def announce_environment_code(config: Config, run_dir: Path) -> None:
    """Print such a line if the run's environment comes from a module that its id or its wrappers
    name.
    """
    _announce(config, run_dir, ("env.id", "env.wrappers"))


def _announce(config: Config, run_dir: Path, settings: tuple[str, ...]) -> None:
    values = config.flat()
    named = [
        (name, text)
        for name in settings
        for text in (values[name] if isinstance(values[name], tuple) else (str(values[name]),))
        if ":" in text
    ]
    foreign = [
        f"{text.partition(':')[0]} ({name.replace('_', '-')} = {text!r})"
        for name, text in named
        if text.partition(":")[0].partition(".")[0] not in _KNOWN
    ]
    line = f"hvd-dqn: {run_dir} names code, which is imported now: {', '.join(foreign)}"
    if foreign and line not in _announced:
        _announced.add(line)
        print(line, file=sys.stderr, flush=True)
