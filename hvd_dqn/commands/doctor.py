"""`hvd-dqn doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import parse
from hvd_dqn.common.errors import EXIT_FAILED, EXIT_OK, RunError
from hvd_dqn.distributed.communicator import Communicator, hostname
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.tools.doctor.checks import Check, diagnose, enough_gpus, print_checks, two_ranks

_EXAMPLES = (
    "hvd-dqn doctor",
    "srun --mpi=pmix hvd-dqn doctor --shared /scratch/runs",
)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check torch, MPI, Horovod, whether they fit each other, GPUs and threads; each line with its
    remedy. Within a launch: also what the ranks can only tell together.
    """

    json: bool = False
    """Print one JSON object."""
    node: bool = False
    """Within a launch, check this node alone, and say only what is wrong."""
    gpus: int = 0
    """With --node: how many GPUs it should have."""
    backend: Literal["horovod", "mpi", "local"] = "horovod"
    """What the job averages by; for mpi, Horovod may be missing, for local both."""
    shared: Annotated[Path | None, tyro.conf.arg(metavar="DIRECTORY", help_behavior_hint="")] = None
    """Within a launch: a directory that all ranks should see."""


_SPARED: dict[str, list[str]] = {"horovod": [], "mpi": ["Horovod"], "local": ["Horovod", "MPI"]}


def run(arguments: Sequence[str]) -> int:
    """Check."""
    options = parse(DoctorOptions, arguments, program="hvd-dqn doctor", examples=_EXAMPLES)
    if options.node:
        checks = [*_checks(options), enough_gpus(options.gpus)]
        bad = [check for check in checks if check.state == "fail"]
        for check in bad:
            print(f"{hostname()}: {check.name}: {check.found} → {check.remedy}", flush=True)
        return EXIT_FAILED if bad else EXIT_OK
    launch = detect_launch()
    if launch is None or launch.world_size == 1:
        checks = _checks(options)
        if options.backend == "horovod":
            checks.append(two_ranks(checks))
        return _tell(checks, options)
    comm = connect("mpi" if options.backend == "mpi" else "auto")
    return run_on_all_ranks(comm, lambda: _examine(comm, options))


def _checks(options: DoctorOptions) -> list[Check]:
    """Of this machine, and of what the backend needs."""
    return [check for check in diagnose() if check.name not in _SPARED[options.backend]]


def _tell(checks: list[Check], options: DoctorOptions) -> int:
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        print_checks(checks)
    return EXIT_FAILED if any(check.state == "fail" for check in checks) else EXIT_OK


def _examine(comm: Communicator, options: DoctorOptions) -> None:
    """The root's own checks, the worst of the others', and those of all together: each is printed
    before the next one, which may hang, begins.
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
        raise RunError(f"not well: {', '.join(failed)}")
