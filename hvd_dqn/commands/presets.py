"""`hvd-dqn presets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_OK, UserError
from hvd_dqn.common.output import print_data
from hvd_dqn.config.files import to_yaml
from hvd_dqn.presets import PRESETS, preset

_EXAMPLES = (
    "hvd-dqn presets",
    "hvd-dqn presets rainbow",
    "hvd-dqn presets rainbow --yaml > run.yaml",
)


@dataclass(frozen=True, kw_only=True)
class PresetsOptions:
    """List the presets, or print all settings of one as JSON or YAML, for
    hvd-dqn train --config FILE.
    """

    name: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[PRESET]", help_behavior_hint=""),
    ] = None
    """The preset to print."""
    yaml: bool = False
    """Print YAML instead of JSON."""


def run(arguments: Sequence[str]) -> int:
    """Print the list, or one preset."""
    options = parse(PresetsOptions, arguments, program="hvd-dqn presets", examples=_EXAMPLES)
    if options.name is not None:
        config = preset(options.name)
        print_data((to_yaml(config) if options.yaml else config.to_json()).rstrip())
        return EXIT_OK
    if options.yaml:
        raise UserError("presets --yaml: no preset given", "hvd-dqn presets NAME --yaml")
    for name, make in PRESETS.items():
        print(f"{name:18} {(make.__doc__ or '').strip().splitlines()[0]}")
    return EXIT_OK
