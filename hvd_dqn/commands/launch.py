"""`hvd-dqn launch`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from hvd_dqn.commands.options import parse, parse_train
from hvd_dqn.common.errors import UserError
from hvd_dqn.config.section import Section, non_negative, positive
from hvd_dqn.distributed.doors import require_interface
from hvd_dqn.distributed.launcher import NETWORK_INTERFACE
from hvd_dqn.run.directory import RunDirectory, default_path
from hvd_dqn.tools.launching.launchers import MpirunLauncher, parse_hosts
from hvd_dqn.tools.launching.restarts import Training, launch

_EXAMPLES = (
    "hvd-dqn launch -np 4 --max-restarts 3 -- train cartpole --run-dir runs/a",
    "hvd-dqn launch -np 8 -H a:4,b:4 --min-np 4 -- train rainbow --run-dir /shared/runs/a",
)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(Section):
    """Run the command after -- on several ranks. After a failure, restart it from its newest
    checkpoint. On Ctrl-C or SIGTERM, the ranks save a checkpoint and stop.
    """

    prefix = "--"

    np: int = positive()
    """Number of ranks (short: -np)."""
    hosts: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: this host)")] = ""
    """Hosts and their slots, such as a:4,b:4 (short: -H)."""
    launcher: str = "horovodrun"
    """The program that starts the ranks, with its options: horovodrun, or another that takes -np
    and -H. Each host is first tested with plain ssh, so put ports and keys in ~/.ssh/config.
    """
    network_interface: Annotated[
        str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")
    ] = ""
    """The network interface between the hosts, such as ib0. The launcher, MPI and NCCL use only
    this one. On one host, they use none but loopback.
    """
    max_restarts: int = non_negative(3)
    """Maximum number of restarts."""
    min_np: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: --np)")
    ] = positive(None)
    """Minimum number of ranks to continue with if a host fails."""


def run(arguments: Sequence[str]) -> int:
    """Start the ranks, and restart them after a failure."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    flags = ["--np" if a == "-np" else "--hosts" if a == "-H" else a for a in arguments[:split]]
    options = parse(LaunchOptions, flags, program="hvd-dqn launch", examples=_EXAMPLES)
    command = list(arguments[split + 1 :])
    if command[:1] != ["train"]:
        raise UserError("launch: no command given", "put it after --, as in -- train cartpole")
    train = parse_train(command[1:])  # so that an error is printed once, before any rank starts
    run_dir = train.run_dir
    if run_dir is None:
        run_dir = default_path(command[1].lstrip("-"))
        command += ["--run-dir", str(run_dir)]
    training = Training(
        command,
        run_dir,
        train.config.checkpoint.directory or str(RunDirectory(run_dir).checkpoints),
        train.resume,
        train.dry_run,
    )
    if options.network_interface:
        require_interface(options.network_interface)
        os.environ[NETWORK_INTERFACE] = options.network_interface
    launcher = MpirunLauncher(
        options.launcher,
        ranks=options.np,
        hosts=parse_hosts(options.hosts),
        min_ranks=options.np if options.min_np is None else options.min_np,
    )
    max_restarts = 0 if train.dry_run else options.max_restarts
    return launch(training, launcher, max_restarts=max_restarts)
