"""What one process can tell by itself. One line a question, each with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Literal, NamedTuple

from rich.console import Console

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.horovod import load_horovod
from hvd_dqn.distributed.launcher import cpu_quota, detect_launch, usable_cores
from hvd_dqn.tools.probe import (
    MPI4PY_REMEDY,
    loaded_mpi_libraries,
    mpi_library_version,
    probe_two_ranks,
)


class Check(NamedTuple):
    """One question's answer; `remedy` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def diagnose() -> list[Check]:
    """Every check, in the order in which one needs the other."""
    checks = [_python(), _torch(), _threads(), _gpu(), _guarded("MPI", _mpi), _launcher()]
    horovod = _guarded("Horovod", _horovod)
    return [*checks, horovod] if horovod.state == "fail" else [*checks, horovod, _nccl()]


def two_ranks(before: list[Check]) -> Check:
    """Whether two ranks on this host can be started and can sum, where what was found `before`
    leaves hope.
    """
    if any(check.name == "Horovod" and check.state == "fail" for check in before):
        return Check("two ranks", "fail", "not tried", "first mend Horovod")
    return _guarded("two ranks", _two_ranks)


def print_checks(checks: list[Check]) -> None:
    """One line each."""
    console = make_console()
    marks = {
        "ok": "[green]ok  [/green]",
        "warn": "[yellow]warn[/yellow]",
        "fail": "[red]fail[/red]",
    }
    for check in checks:
        remedy = f" → {check.remedy}" if check.remedy else ""
        console.print(f"{marks[check.state]} {check.name:10} ", end="")
        console.print(f"{check.found}{remedy}", markup=False)


def make_console() -> Console:
    """Lines as long as they are, and no colours through a launcher, whose terminals nobody sees."""
    launched = detect_launch() is not None
    return Console(highlight=False, soft_wrap=True, force_terminal=False if launched else None)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check that fails by a `UserError`."""
    try:
        return check()
    except UserError as error:
        return Check(name, "fail", error.found, error.remedy)


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    return Check("Python", "ok", found)


def _torch() -> Check:
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Check("torch", "ok", f"{torch.__version__}, {cuda}")


def _threads() -> Check:
    cores, quota = len(usable_cores()), cpu_quota()
    found = f"{cores} cores for this process" + (f", {quota:g} by quota" if quota < cores else "")
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > cores:
        return Check("threads", "warn", f"{found}, OMP_NUM_THREADS={wanted}", f"at most {cores}")
    return Check("threads", "ok", found)


def enough_gpus(wanted: int) -> Check:
    """Whether torch sees as many as a job was promised on this node."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < wanted:
        return Check("GPUs", "fail", f"{found} of {wanted}", "nvidia-smi on this node")
    return Check("GPUs", "ok", str(found))


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", "ok", f"{len(names)}: {', '.join(sorted(set(names)))}")
    if shutil.which("nvidia-smi"):
        remedy = (
            "install a torch built for CUDA, or mend the driver"
            if not torch.version.cuda
            else "nvidia-smi"
        )
        return Check("GPU", "warn", "nvidia-smi is here, but torch sees no GPU", remedy)
    return Check("GPU", "ok", "none; training uses the cores")


def _mpi() -> Check:
    library = mpi_library_version()
    where = ", ".join(loaded_mpi_libraries())
    return Check("MPI", "ok", f"{library}, mpi4py {metadata.version('mpi4py')} ({where})")


def _launcher() -> Check:
    launch = detect_launch()
    mpirun = shutil.which("mpirun")
    if launch is not None:
        return Check(
            "launcher", "ok", f"started by {launch.launcher}, {launch.world_size} processes"
        )
    if mpirun is None:
        return Check(
            "launcher",
            "warn",
            "no mpirun on PATH",
            "activate the environment that has it, or use srun",
        )
    return Check("launcher", "ok", mpirun)


def _horovod() -> Check:
    import torch

    load_horovod()
    built_with = _torch_of_horovod()
    import horovod

    version = horovod.__version__
    if built_with is not None and built_with != torch.__version__:
        return Check(
            "Horovod",
            "fail",
            f"{version} was built with torch {built_with}, this is {torch.__version__}",
            "hvd-dqn build-horovod --force",
        )
    return Check("Horovod", "ok", f"{version}, built with torch {built_with or 'unknown'}")


def _nccl() -> Check:
    import torch

    nccl = bool(load_horovod().nccl_built())
    if torch.cuda.is_available() and not nccl:
        remedy = "install the CUDA toolkit and NCCL, then hvd-dqn build-horovod --force"
        return Check("NCCL", "warn", "not built in: GPU tensors travel through the host", remedy)
    return Check("NCCL", "ok", "built in" if nccl else "not built in, not needed without a GPU")


def _two_ranks() -> Check:
    result = probe_two_ranks()
    if len(result.libmpi) > 1:
        return Check(
            "two ranks",
            "fail",
            f"Horovod and mpi4py load different MPI libraries: {', '.join(result.libmpi)}",
            MPI4PY_REMEDY,
        )
    return Check(
        "two ranks", "ok", f"summed a tensor through Horovod in {result.milliseconds:.2f} ms"
    )


def _torch_of_horovod() -> str | None:
    """The torch that this Horovod was built with, as its own metadata records."""
    import json
    from pathlib import Path

    import horovod

    try:
        recorded = json.loads((Path(horovod.__file__).parent / "metadata.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    version = recorded.get("pytorch")
    return version if isinstance(version, str) else None
