"""Typed command-line options, parsed by tyro; every error is one line."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.config.loading import load_config
from hvd_dqn.presets import PRESETS, preset

T = TypeVar("T")
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
"""An option that names a file; what happens without it is said in its help."""
RunDir = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="")
]
RunDirs = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="RUN_DIR …", help_behavior_hint=""),
]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a Deep Q-Network on every rank of this launch, or in one process where there is no
    launcher.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Where the run is kept: a new or empty directory, or one to go on in. By default a new one
    under `runs/`.
    """
    resume: str = "auto"
    """`auto`: go on from the newest whole checkpoint of the run directory, if there is one;
    `never`; or a checkpoint's directory, `…/checkpoints/step-…`.
    """
    resume_changes: str = ""
    """Options, separated by commas, whose values may differ from those of the run to go on with."""


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    program: str,
    default: Any = tyro.MISSING_NONPROP,
    values: bool = False,
    examples: Sequence[str] = (),
) -> T:
    """Parse typed options; help, with `examples` below it, goes to the terminal and exits 0.
    Booleans are switches, or, with `values`, take True or False as every setting of a config takes
    its value. Raises `UserError`, one line, for anything wrong.
    """
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            _wide_output(arguments),
        ):
            parsed: T = tyro.cli(
                kind,
                args=list(arguments),
                prog=program,
                default=default,
                config=(tyro.conf.FlagConversionOff if values else tyro.conf.FlagCreatePairsOff,),
            )
            return parsed
    except SystemExit as exit_request:
        if not exit_request.code:
            print(said.getvalue().rstrip())
            if examples:
                print("\nexamples", *examples, sep="\n  ")
            raise
        raise UserError(_first_fact(said.getvalue(), program)) from None


def parse_train(arguments: Sequence[str]) -> TrainOptions:
    """`PRESET [--section.field VALUE …] [--run-dir DIR]`, or `--config FILE` in the place of a
    preset.
    """
    if arguments[:1] == ["--config"] and len(arguments) > 1:
        default, rest, program = (
            load_config(Path(arguments[1])),
            arguments[2:],
            "hvd-dqn train --config FILE",
        )
    elif arguments and not arguments[0].startswith("-"):
        default, rest, program = (
            preset(arguments[0]),
            arguments[1:],
            f"hvd-dqn train {arguments[0]}",
        )
    else:
        raise UserError(
            f"hvd-dqn train: name a preset first ({', '.join(PRESETS)}), or --config FILE"
        )
    preset_options = TrainOptions(config=default)
    return parse(TrainOptions, rest, program=program, default=preset_options, values=True)


def _first_fact(text: str, program: str) -> str:
    """What tyro's panel says first: the line after its title, without the frame."""
    lines = [line.strip(" │╭╰╮╯─") for line in text.splitlines()]
    facts = [line for line in lines if line.strip("-")]
    fact = facts[1] if len(facts) > 1 else " ".join(facts)
    if fact.endswith(":"):  # a list follows: its first entry is enough to go on with
        fact = f"{fact} {facts[2]}"
    suggestion = next(
        (line for after, line in pairwise(facts) if after.startswith("Perhaps you meant")),
        "",
    )
    fact = fact.removesuffix(f" from {program}").replace(f" from {program}:", ":")
    hint = f"; perhaps {suggestion.split()[0]}" if suggestion else ""
    return f"{program}: {fact}{hint} (options: {program} --help)"


@contextlib.contextmanager
def _wide_output(arguments: Sequence[str]) -> Iterator[None]:
    """Keep an error on one line, whatever the terminal's width; help keeps the terminal's."""
    if "--help" in arguments or "-h" in arguments:
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
