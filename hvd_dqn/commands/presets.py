"""`hvd-dqn presets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_OK
from hvd_dqn.presets import PRESETS, preset

_EXAMPLES = (
    "hvd-dqn presets",
    "hvd-dqn presets rainbow",
)


@dataclass(frozen=True, kw_only=True)
class PresetsOptions:
    """List the presets, or print all settings of one as JSON."""

    name: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[PRESET]", help_behavior_hint=""),
    ] = None
    """The preset to print."""


def run(arguments: Sequence[str]) -> int:
    """Print the list, or one preset."""
    options = parse(PresetsOptions, arguments, program="hvd-dqn presets", examples=_EXAMPLES)
    if options.name is None:
        for name, make in PRESETS.items():
            print(f"{name:18} {(make.__doc__ or '').strip().splitlines()[0]}")
    else:
        print(preset(options.name).to_json(), end="")
    return EXIT_OK
