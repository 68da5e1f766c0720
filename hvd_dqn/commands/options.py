"""Typed command-line options, parsed by tyro. Every error is one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
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
"""An optional file; the option's help says what happens without it."""
OptionalDirectory = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
"""An optional directory, likewise."""
RunDir = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="")
]
RunDirs = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="RUN_DIR …", help_behavior_hint=""),
]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a deep Q-network on every rank of this launch, or in one process without a launcher."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: OptionalDirectory = None
    """The run directory: a new or empty one, or that of a run to resume. Default: a new directory
    in `runs/`.
    """
    resume: str = "auto"
    """`auto`: resume from the newest complete checkpoint in the run directory, if there is one;
    `never`: do not resume; or the directory of a checkpoint, `…/checkpoints/step-…`.
    """
    resume_changes: Annotated[str, tyro.conf.arg(metavar="OPTION,…", help_behavior_hint="")] = ""
    """Settings that may differ from those of the run to resume, separated by commas, such as
    `env.num-envs`.
    """


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    program: str,
    default: Any = tyro.MISSING_NONPROP,
    values: bool = False,
    examples: Sequence[str] = (),
) -> T:
    """Parse the options `kind`. `--help` prints the help with `examples` below it and exits with 0.

    Booleans are switches, or, with `values`, take True or False like the other settings of a
    config. Raises a one-line `UserError` for invalid arguments.
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
            print(_without_empty_defaults(said.getvalue().rstrip()))
            if examples:
                print("\nexamples", *examples, sep="\n  ")
            raise
        raise UserError(_first_fact(said.getvalue(), program)) from None


def parse_train(arguments: Sequence[str]) -> TrainOptions:
    """Parse `PRESET [--section.field VALUE …] [--run-dir DIR]`, or the same with `--config FILE`
    instead of a preset.
    """
    if list(arguments[:1]) == ["--config"] and len(arguments) > 1:
        config, rest = load_config(Path(arguments[1])), arguments[2:]
        program = "hvd-dqn train --config FILE"
    elif arguments and not arguments[0].startswith("-"):
        config, rest = preset(arguments[0]), arguments[1:]
        program = f"hvd-dqn train {arguments[0]}"
    else:
        raise UserError(
            "train: no preset given",
            f"name a preset first ({', '.join(PRESETS)}), or --config FILE",
        )
    default = TrainOptions(config=config)
    return parse(TrainOptions, rest, program=program, default=default, values=True)


def _without_empty_defaults(text: str) -> str:
    """Blank out `(default: '')`, keeping the columns of the help."""
    return re.sub(r"\(default:\s+''\)", lambda found: re.sub(r"\S", " ", found[0]), text)


def _first_fact(text: str, program: str) -> str:
    """Return the first message of tyro's error panel, without the frame and the title."""
    lines = [line.strip(" │╭╰╮╯─") for line in text.splitlines()]
    facts = [line for line in lines if line.strip("-")]
    fact = facts[1] if len(facts) > 1 else " ".join(facts)
    if fact.endswith(":"):  # a list follows; one entry is enough
        fact = f"{fact} {facts[2]}"
    suggestion = next(
        (line for after, line in pairwise(facts) if after.startswith("Perhaps you meant")),
        "",
    )
    fact = fact.removesuffix(f" from {program}").replace(f" from {program}:", ":")
    hint = f"; did you mean {suggestion.split()[0]}?" if suggestion else ""
    return f"{program.removeprefix('hvd-dqn ')}: {fact}{hint} (see {program} --help)"


@contextlib.contextmanager
def _wide_output(arguments: Sequence[str]) -> Iterator[None]:
    """Make the terminal wide for tyro, so that an error is one line; help keeps the real width."""
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
