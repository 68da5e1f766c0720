"""Other libraries to compare with, in a Python environment of their own (`make peers`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.tools.bench.report import say

HERE = Path(__file__).parent
DEFAULT_PYTHON = HERE.parent / ".venv-peers/bin/python"
DISTRIBUTIONS = {
    "Stable-Baselines3": "stable-baselines3",
    "Tianshou": "tianshou",
    "TorchRL": "torchrl",
    "cpprb": "cpprb",
}

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def installed(python: Path, libraries: Iterable[str]) -> dict[str, str]:
    """Versions of those libraries that `python` has; reports each that it lacks.

    A library that `DISTRIBUTIONS` does not list has the name of its distribution.

    Raises `UserError` if it has none.
    """
    wanted = {name: DISTRIBUTIONS.get(name, name) for name in libraries}
    found = versions(python, wanted.values())
    for name, distribution in wanted.items():
        if distribution not in found:
            say(f"{name} is left out: {distribution} is not installed for {python}")
    if wanted and not found:
        raise UserError(f"{python} has none of {', '.join(wanted)}", "run make peers")
    return {name: found[text] for name, text in wanted.items() if text in found}


def versions(python: Path, distributions: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that are installed for `python`."""
    found: dict[str, str] = run_script(python, ["-c", _VERSIONS, *distributions])
    return found


def run_script(python: Path, words: Sequence[str]) -> Any:
    """Run `python WORDS` with one thread; returns the JSON on the last line of its output.

    Raises `UserError` if there is no such Python, and `RunError` if the script fails.
    """
    try:
        done = subprocess.run(
            [str(python), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    except OSError as error:
        raise UserError(f"{python}: {error.strerror}", "run make peers") from error
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        lines = done.stderr.strip().splitlines()
        raise RunError(
            f"{Path(words[0]).name} failed with exit code {done.returncode}"
            + (f": {lines[-1]}" if lines else "")
        )
    return json.loads(done.stdout.splitlines()[-1])
