"""The command `hvd-dqn`. Exit codes: 0 success, 1 failure, 2 invalid input (one line, printed by
one rank), 75 stopped on request after saving a checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import hvd_dqn
from hvd_dqn.common.ending import end_process
from hvd_dqn.common.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    AgreedError,
    RunError,
    UserError,
    did_you_mean,
)
from hvd_dqn.common.files import set_home
from hvd_dqn.common.imports import explain
from hvd_dqn.common.output import make_output_tolerant
from hvd_dqn.distributed.launcher import detect_launch

_COMMANDS = {
    "train": "train a preset on every rank of this launch",
    "launch": "start ranks, restart them after failures, stop them with a checkpoint",
    "watch": "follow a running job",
    "evaluate": "play episodes with a run's network and print the score",
    "play": "watch a run's policy play, in a window or as a video",
    "export": "export a run's policy to ONNX or as a torch program",
    "report": "write an HTML report of one or more runs",
    "plot": "write the report's figures as PNG, SVG or PDF",
    "summary": "compare runs in a table",
    "presets": "list the presets, or print the settings of one",
    "zoo": "list the trained policies that come with the project",
    "doctor": "check torch, MPI, Horovod and GPUs, and suggest fixes",
    "bench": "measure the speed of training and of its parts",
    "slurm": "write a Slurm batch script, or submit it",
    "build-horovod": "build Horovod for this torch and this MPI",
}
_SECONDS_FOR_ROOT_TO_SPEAK = 3.0


def main() -> NoReturn:
    """Run one command and exit with its code."""
    make_output_tolerant()
    try:
        sys.path.append(str(Path.cwd()))  # the user's modules; installed packages have precedence
    except FileNotFoundError:
        print("hvd-dqn: the working directory was removed: cd to another one", file=sys.stderr)
        end_process(EXIT_BAD_INPUT)
    set_home()
    code = run(sys.argv[1:])
    if detect_launch() is not None:
        signals = import_module("hvd_dqn.common.signals")
        signals.ignore_signals()
    end_process(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return EXIT_OK if arguments else EXIT_BAD_INPUT
    if arguments[0] in ("-V", "--version"):
        print(f"hvd-dqn {hvd_dqn.__version__}")
        return EXIT_OK
    name, rest = arguments[0], arguments[1:]
    if not _is_root() and {"-h", "--help"} & set(rest):
        return EXIT_OK  # the root prints it
    try:
        if name not in _COMMANDS:
            raise UserError(f"unknown command {name!r}", _remedy(name))
        return _run_command(name, rest)
    except AgreedError as error:
        if _is_root():
            print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except RunError as error:
        print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    except UserError as error:
        _let_root_speak_first()
        print(f"hvd-dqn: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("hvd-dqn: interrupted", file=sys.stderr)
        return EXIT_FAILED


def _run_command(name: str, arguments: Sequence[str]) -> int:
    """Import and run a command. Raises `UserError` if a package that it needs does not load."""
    try:
        command = import_module(f"hvd_dqn.commands.{name.replace('-', '_')}")
        code: int = command.run(arguments)
        return code
    except Exception as error:  # a package of another Python may raise anything
        explained = explain(error)
        if explained is None:
            raise
        raise explained from error


def _usage() -> str:
    return "\n".join(
        [
            "usage: hvd-dqn COMMAND …",
            "",
            "Train deep Q-networks on one machine or on many, and inspect the runs.",
            "",
            *(f"  {name:14} {text}" for name, text in _COMMANDS.items()),
            "",
            "hvd-dqn COMMAND --help explains a command; hvd-dqn train PRESET --help lists",
            "all settings; hvd-dqn -V prints the version.",
        ]
    )


def _remedy(name: str) -> str:
    """Return what to write instead of the unknown command `name`."""
    from hvd_dqn.presets import PRESETS

    if name in PRESETS:
        return f"did you mean hvd-dqn train {name}?"
    return did_you_mean(name, _COMMANDS)


def _let_root_speak_first() -> None:
    """Give the root time to print the error of ranks that could not connect to each other. When the
    root exits, the launcher ends the other ranks before they print it again.
    """
    if not _is_root():
        time.sleep(_SECONDS_FOR_ROOT_TO_SPEAK)


def _is_root() -> bool:
    launch = detect_launch()
    return launch is None or launch.rank == 0
