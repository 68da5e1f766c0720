"""The command `hvd-dqn`. Exit codes: 0 done, 1 the run failed, 2 bad input (one line, said by one
rank), 75 stopped on request with a checkpoint saved.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import hvd_dqn
from hvd_dqn.common.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    AgreedError,
    RunError,
    UserError,
)
from hvd_dqn.distributed.launcher import detect_launch

_COMMANDS = {
    "train": "train a preset, on every rank of this launch",
    "launch": "start ranks, again where they fail, and stop them gently",
    "watch": "follow a run that goes on elsewhere",
    "evaluate": "play whole games with a run's network, and their score",
    "play": "watch a run's policy play, in a window or as a video",
    "export": "write a run's policy as ONNX or as a torch program",
    "report": "one HTML file about one or more runs",
    "plot": "the report's figures as PNG, SVG or PDF",
    "summary": "several runs in one table",
    "presets": "list the presets, or one preset's settings",
    "doctor": "check torch, MPI, Horovod and GPUs, and say what to do",
    "bench": "measure how fast it is here",
    "slurm": "write a batch script for Slurm, or hand it in",
    "build-horovod": "build Horovod against this torch and this MPI",
}
_SECONDS_FOR_ROOT_TO_SPEAK = 3.0


def main() -> NoReturn:
    """Run one command and exit with its code."""
    sys.path.append(str(Path.cwd()))  # for modules of the user's own, after all that is installed
    code = run(sys.argv[1:])
    if detect_launch() is not None:
        signals = import_module("hvd_dqn.common.signals")
        signals.ignore_signals()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return EXIT_OK if arguments else EXIT_BAD_INPUT
    if arguments[0] == "--version":
        print(f"hvd-dqn {hvd_dqn.__version__}")
        return EXIT_OK
    name, rest = arguments[0], arguments[1:]
    if not _is_root() and {"-h", "--help"} & set(rest):
        return EXIT_OK  # the root prints it
    try:
        if name not in _COMMANDS:
            raise UserError(f"unknown command {name!r}: the commands are {', '.join(_COMMANDS)}")
        command = import_module(f"hvd_dqn.commands.{name.replace('-', '_')}")
        code: int = command.run(rest)
        return code
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


def _usage() -> str:
    lines = [
        "usage: hvd-dqn COMMAND …",
        "",
        *(f"  {name:14} {text}" for name, text in _COMMANDS.items()),
    ]
    return "\n".join(
        [
            *lines,
            "",
            "hvd-dqn COMMAND --help says more; hvd-dqn train PRESET --help lists every option.",
        ]
    )


def _let_root_speak_first() -> None:
    """Ranks that could not even meet say nothing twice: the launcher ends the others when the root
    has spoken and left.
    """
    if not _is_root():
        time.sleep(_SECONDS_FOR_ROOT_TO_SPEAK)


def _is_root() -> bool:
    launch = detect_launch()
    return launch is None or launch.rank == 0
