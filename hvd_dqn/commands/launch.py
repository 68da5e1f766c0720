"""`hvd-dqn launch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_dqn.commands.options import parse, parse_train
from hvd_dqn.common.errors import UserError
from hvd_dqn.run.directory import default_path
from hvd_dqn.tools.launching.launchers import MpirunLauncher, parse_hosts
from hvd_dqn.tools.launching.restarts import launch, option

_EXAMPLES = (
    "hvd-dqn launch -np 4 --max-restarts 3 -- train cartpole --run-dir runs/a",
    "hvd-dqn launch -np 8 -H a:4,b:4 --min-np 4 -- train rainbow --run-dir /shared/runs/a",
)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Run what stands behind -- on several ranks, start it again where it fails, and stop it
    gently.
    """

    np: int
    """Ranks (short: -np)."""
    hosts: str = ""
    """Where, as a:4,b:4 (short: -H); by default on this host."""
    launcher: str = "horovodrun"
    """What starts the ranks, with its options: horovodrun, or another that takes -np and -H. Hosts
    are asked by plain ssh first: a port or a key is best named in ~/.ssh/config.
    """
    max_restarts: int = 3
    """Attempts after the first."""
    min_np: int | None = None
    """Go on with so few ranks where a host is gone; by default with no fewer than --np."""


def run(arguments: Sequence[str]) -> int:
    """Start ranks, again where they fail."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    flags = ["--np" if a == "-np" else "--hosts" if a == "-H" else a for a in arguments[:split]]
    options = parse(LaunchOptions, flags, program="hvd-dqn launch", examples=_EXAMPLES)
    command = list(arguments[split + 1 :])
    if command[:1] != ["train"]:
        raise UserError("hvd-dqn launch: write what to run behind --, such as -- train cartpole")
    parse_train(command[1:])  # what is wrong with it is said here, once
    if options.np < 1 or options.max_restarts < 0:
        raise UserError(f"--np {options.np} --max-restarts {options.max_restarts}", "too few")
    if not option(command, "run-dir"):
        command += ["--run-dir", str(default_path(command[1].lstrip("-")))]
    launcher = MpirunLauncher(
        options.launcher,
        ranks=options.np,
        hosts=parse_hosts(options.hosts),
        min_ranks=options.np if options.min_np is None else options.min_np,
    )
    return launch(command, launcher, max_restarts=options.max_restarts)
