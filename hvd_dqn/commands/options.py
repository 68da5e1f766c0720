"""Typed command-line options, parsed by tyro. Every error is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro

from hvd_dqn.commands.arguments import translate
from hvd_dqn.commands.help import Help, render
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.common.files import expanded
from hvd_dqn.config import Config
from hvd_dqn.config.loading import load_config
from hvd_dqn.presets import PRESETS, preset, require_own_name

T = TypeVar("T")
_TRAIN_EXAMPLES = (
    ("", "--optimizer.learning-rate 3e-4 --run-dir runs/a"),
    ("horovodrun -np 4 ", "--env.num-envs 16"),
)
"""What stands before and after `hvd-dqn train PRESET`."""
_CHANGED_MOST = (
    "--run-dir",
    "--env.id",
    "--total-env-steps",
    "--seed",
    "--optimizer.learning-rate",
    "--replay.batch-size",
    "--replay.capacity",
    "--env.num-envs",
    "--exploration.epsilon-decay-env-steps",
    "--logging.loggers",
)
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
    `never`: do not resume; or a run directory, or a checkpoint in it, `…/checkpoints/step-…`.
    """
    resume_changes: Annotated[str, tyro.conf.arg(metavar="OPTION,…", help_behavior_hint="")] = ""
    """Settings that may differ from those of the run to resume, separated by commas, such as
    `env.num-envs`.
    """
    dry_run: bool = False
    """Check everything up to the first update, print sizes, memory and ranks, and write nothing."""


def parse(
    kind: type[T],
    arguments: Sequence[str],
    *,
    program: str,
    default: Any = tyro.MISSING_NONPROP,
    values: bool = False,
    examples: Sequence[str] = (),
    first: Sequence[str] = (),
) -> T:
    """Parse the options `kind`. `--help` prints the help, which begins with `examples` and the
    options `first`, and exits with 0; `--help SECTION` prints one section.

    Booleans are switches, or, with `values`, may have a value, like the other settings of a config.
    Raises a one-line `UserError` for invalid arguments.
    """
    asked = [place for place, word in enumerate(arguments) if word in ("-h", "--help")]
    if asked:
        named = arguments[asked[0] + 1 : asked[0] + 2] if values else ()
        about = Help(program, examples, first)
        print(render(kind, about, default, section="".join(named), switches=not values))
        raise SystemExit(EXIT_OK)
    words = translate(
        kind, arguments, booleans_take_values=values, program=program, default=default
    )
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            _wide_output(),
        ):
            flags = tyro.conf.FlagConversionOff if values else tyro.conf.FlagCreatePairsOff
            read = functools.partial(
                tyro.cli, kind, args=words, prog=program, default=default, config=(flags,)
            )
            try:
                parsed: T = read()
            except SystemError:
                # Up to Python 3.11.4, syntax trees that are built at the same time, here to read
                # the settings' descriptions, may fail once (python/cpython#106905).
                parsed = read()
            return _with_homes(parsed)
    except SystemExit:
        raise UserError(_first_fact(said.getvalue(), program)) from None


def _with_homes(options: T) -> T:
    """Replace `~` in the paths, which a shell leaves in `--option=~/file`."""
    paths: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, options)):
        value = getattr(options, field.name)
        if isinstance(value, Path):
            paths[field.name] = expanded(value)
        elif isinstance(value, tuple) and all(isinstance(item, Path) for item in value):
            paths[field.name] = tuple(map(expanded, value))
    return dataclasses.replace(cast(Any, options), **paths) if paths else options


def parse_train(arguments: Sequence[str]) -> TrainOptions:
    """Parse `PRESET [--section.field VALUE …] [--run-dir DIR]`, or the same with `--config FILE`
    instead of a preset. With `--env.id`, the preset may be left out; it is `general` then.
    """
    config, program, rest = _starting_config(list(arguments))
    options = parse(
        TrainOptions,
        rest,
        program=program,
        default=TrainOptions(config=config),
        values=True,
        examples=tuple(f"{start}{program} {options}" for start, options in _TRAIN_EXAMPLES),
        first=_CHANGED_MOST,
    )
    require_own_name(options.config, config.preset)
    return options


def _starting_config(words: list[str]) -> tuple[Config, str, list[str]]:
    """Return the preset or the file that a command line starts from, the program with it, and the
    other words.
    """
    words = [part for word in words for part in _split_config(word)]
    if "--config" in words[:-1]:
        place = words.index("--config")
        rest = words[:place] + words[place + 2 :]
        if place > 0 and not words[0].startswith("-"):
            raise UserError(
                f"train: a preset ({words[0]}) and --config {words[place + 1]}",
                "choose one; the file may name a preset to start from",
            )
        return load_config(Path(words[place + 1]), PRESETS), "hvd-dqn train --config FILE", rest
    if words and not words[0].startswith("-"):
        return preset(words[0]), f"hvd-dqn train {words[0]}", words[1:]
    if words[:1] in (["-h"], ["--help"]):
        return Config(), "hvd-dqn train PRESET", words
    if any(word.partition("=")[0].replace("_", "-") == "--env.id" for word in words):
        return preset("general"), "hvd-dqn train general", words
    raise UserError(
        "train: no preset given",
        "name a preset (hvd-dqn presets lists them), --env.id ENVIRONMENT, or --config FILE",
    )


def _split_config(word: str) -> list[str]:
    """Split `--config=FILE` in two."""
    return word.split("=", 1) if word.startswith("--config=") else [word]


def _first_fact(text: str, program: str) -> str:
    """Return the first message of tyro's error panel, without the frame and the title."""
    lines = [line.strip(" │╭╰╮╯─") for line in text.splitlines()]
    facts = [line for line in lines if line.strip("-")]
    fact = facts[1] if len(facts) > 1 else " ".join(facts)
    if fact.endswith(":"):  # a list follows; one entry is enough
        fact = f"{fact} {facts[2]}"
    fact = fact.removesuffix(f" from {program}").replace(f" from {program}:", ":")
    return f"{program.removeprefix('hvd-dqn ')}: {fact} (see {program} --help)"


@contextlib.contextmanager
def _wide_output() -> Iterator[None]:
    """Make the terminal wide for tyro, so that an error is one line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
