"""`hvd-dqn doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import OptionalDirectory, parse
from hvd_dqn.common.errors import EXIT_FAILED, EXIT_OK, RunError
from hvd_dqn.config import EnvConfig
from hvd_dqn.config.section import Section, non_negative, positive
from hvd_dqn.distributed.communicator import Communicator, hostname
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.run.solver_ranks import solvers_of
from hvd_dqn.tools.doctor.checks import Check, diagnose, enough_gpus, print_checks, two_ranks

_EXAMPLES = (
    "hvd-dqn doctor",
    "srun --mpi=pmix hvd-dqn doctor --shared /scratch/runs",
)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Section):
    """Check torch, MPI, Horovod and their compatibility, GPUs and threads. Every failed check
    suggests a fix. Under a launcher, also check the ranks together.
    """

    prefix = "--"

    json: bool = False
    """Print the result as JSON."""
    node: bool = False
    """Under a launcher, check only this node, and print only failures."""
    gpus: int = non_negative(0)
    """With --node: the number of GPUs that the node should have."""
    backend: Literal["horovod", "mpi", "local"] = "horovod"
    """The backend to check: mpi does not need Horovod, and local needs neither Horovod nor MPI."""
    shared: OptionalDirectory = None
    """Under a launcher: a directory that all ranks should share."""
    ranks_per_env: int = non_negative(0)
    """Under a launcher: divide the ranks as a run with this env.ranks-per-env, check those that
    learn, and where the solver ranks are.
    """
    num_envs: int = positive(1)
    """With --ranks-per-env: the run's env.num-envs."""


_NOT_NEEDED: dict[str, list[str]] = {
    "horovod": [],
    "mpi": ["Horovod"],
    "local": ["Horovod", "MPI"],
}


def run(arguments: Sequence[str]) -> int:
    """Run the checks of one process, of one node, or of all ranks of a launch."""
    options = parse(DoctorOptions, arguments, program="hvd-dqn doctor", examples=_EXAMPLES)
    if options.node:
        checks = [*_checks(options), enough_gpus(options.gpus)]
        bad = [check for check in checks if check.state == "fail"]
        for check in bad:
            print(f"{hostname()}: {check.name}: {check.found} → {check.remedy}", flush=True)
        return EXIT_FAILED if bad else EXIT_OK
    launch = detect_launch()
    if (launch is None or launch.world_size == 1) and not options.ranks_per_env:
        checks = _checks(options)
        if options.backend == "horovod":
            checks.append(two_ranks(checks))
        return _print(checks, options)
    env = EnvConfig(num_envs=options.num_envs, ranks_per_env=options.ranks_per_env)
    comm = connect("mpi" if options.backend == "mpi" else "auto", solvers=solvers_of(env))
    return run_on_all_ranks(comm, lambda: _examine(comm, options))


def _checks(options: DoctorOptions) -> list[Check]:
    """Return the checks of this process that matter for the backend."""
    return [check for check in diagnose() if check.name not in _NOT_NEEDED[options.backend]]


def _print(checks: list[Check], options: DoctorOptions) -> int:
    """Print the checks and return the exit code."""
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        print_checks(checks)
    return EXIT_FAILED if any(check.state == "fail" for check in checks) else EXIT_OK


def _examine(comm: Communicator, options: DoctorOptions) -> None:
    """Run the checks of each rank and those of all ranks together. Collective.

    The root prints its own checks, the failures of the other ranks and the common checks, each
    before the next one starts, because that may hang. Raises `RunError` if a check failed.
    """
    from hvd_dqn.tools.doctor.ranks import examine, find_places, print_places

    speaks = comm.is_root and not options.json
    checks = _checks(options)
    bad = [[check.name, check.found] for check in checks if check.state == "fail"]
    for rank, (host, found) in enumerate(comm.gather([hostname(), bad])):
        for name, text in found if rank > 0 else []:
            checks.append(Check(name, "fail", f"rank {rank} on {host}: {text}"))
    places = find_places(comm)
    if speaks:
        print_places(places)
        print_checks(checks)
    for check in examine(comm, places, options.shared):
        checks.append(check)
        if speaks:
            print_checks([check])
    if comm.is_root and options.json:
        facts = {
            "ranks": [place._asdict() for place in places],
            "checks": [check._asdict() for check in checks],
        }
        print(json.dumps(facts, indent=2))
    failed = [check.name for check in checks if check.state == "fail"]
    failed = comm.gather(failed)[0]
    if failed:
        raise RunError(f"checks failed: {', '.join(failed)}")
