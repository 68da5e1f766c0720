"""`hvd-dqn zoo`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_OK
from hvd_dqn.common.numbers import number
from hvd_dqn.common.output import print_data
from hvd_dqn.run.zoo import PREFIX, policy_names, read_card

_EXAMPLES = (
    "hvd-dqn zoo",
    "hvd-dqn zoo cartpole",
    "hvd-dqn evaluate zoo:cartpole",
    "hvd-dqn play zoo:cartpole --video cartpole.gif",
)


@dataclass(frozen=True, kw_only=True)
class ZooOptions:
    """List the trained policies of this clone, or say how one was trained. evaluate, play, export,
    report, plot, summary and watch take zoo:NAME for a run directory, and so does
    hvd_dqn.load_policy.
    """

    name: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[NAME]", help_behavior_hint=""),
    ] = None
    """The policy to describe."""
    json: bool = False
    """Print JSON instead."""


def run(arguments: Sequence[str]) -> int:
    """Print the list, or one card."""
    options = parse(ZooOptions, arguments, program="hvd-dqn zoo", examples=_EXAMPLES)
    if options.name is not None:
        card = read_card(options.name.removeprefix(PREFIX))
        print_data(json.dumps(card, indent=2) if options.json else _description(card))
        return EXIT_OK
    cards = [read_card(name) for name in policy_names()]
    if options.json:
        print_data(json.dumps(cards, indent=2))
        return EXIT_OK
    width = max(len(card["name"]) for card in cards)
    for card in cards:
        print(
            f"{card['name']:{width}}  {card['task']}: return {_score(card)} after "
            f"{card['env_steps']:,} env steps"
        )
    return EXIT_OK


def _score(card: dict[str, Any]) -> str:
    return f"{number(card['closing_mean'])} ± {number(card['closing_std'])}"


def _description(card: dict[str, Any]) -> str:
    seeds = ", ".join(number(mean) for mean in card["closing_means"])
    return "\n".join(
        [
            f"{card['task']}: return {_score(card)} over {card['episodes']} greedy episodes after "
            f"{card['env_steps']:,} env steps",
            f"network   {card['network']}",
            f"trained   {card['command']}",
            f"          {card['date']}, commit {(card['commit'] or 'unknown')[:9]}, "
            f"{card['seconds']:,.0f} s",
            f"all seeds {seeds}",
            f"play      hvd-dqn play {PREFIX}{card['name']}",
        ]
    )
