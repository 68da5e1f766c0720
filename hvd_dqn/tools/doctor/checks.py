"""The checks that one process can run by itself. Each is one line, with a remedy if it fails."""

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
from hvd_dqn.common.imports import packages_on_python_path
from hvd_dqn.distributed.horovod import load_horovod
from hvd_dqn.distributed.launcher import (
    cpu_quota,
    detect_launch,
    requested_threads,
    usable_cores,
)
from hvd_dqn.tools.probe import (
    MPI4PY_REMEDY,
    NOT_TRIED,
    TRY_THEM,
    loaded_mpi_libraries,
    mpi_library_version,
    probe_two_ranks,
)


class Check(NamedTuple):
    """The result of one check; `remedy` is empty if there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def diagnose() -> list[Check]:
    """Run every check, in the order in which they depend on each other."""
    checks = [_python(), _torch(), _threads(), _gpu(), _guarded("MPI", _mpi), _launcher()]
    horovod = _guarded("Horovod", _horovod)
    return [*checks, horovod] if horovod.state == "fail" else [*checks, horovod, _nccl()]


def two_ranks(before: list[Check]) -> Check:
    """Check that two ranks on this host can be started and can sum a tensor. Skip that if Horovod
    failed one of the checks `before`.
    """
    if any(check.name == "Horovod" and check.state == "fail" for check in before):
        return Check("two ranks", "fail", "not tried", "fix Horovod first")
    return _guarded("two ranks", _two_ranks)


def print_checks(checks: list[Check]) -> None:
    """Print each check on one line."""
    console = make_console()
    marks = {
        "ok": "[green]ok  [/green]",
        "warn": "[yellow]warn[/yellow]",
        "fail": "[red]fail[/red]",
    }
    for check in checks:
        remedy = f" → {check.remedy}" if check.remedy else ""
        console.print(f"{marks[check.state]} {check.name:10} ", end="", markup=True)
        console.print(f"{check.found}{remedy}")


def make_console() -> Console:
    """Return a console that prints text as it is, without wrapping lines, and without colours under
    a launcher.
    """
    colours = None if detect_launch() is None else False
    return Console(
        highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=colours
    )


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check, which fails if it raises `UserError`."""
    try:
        return check()
    except UserError as error:
        return Check(name, "fail", error.found, error.remedy)


def _python() -> Check:
    import torch  # noqa: F401  # with what it imports, the packages that PYTHONPATH may replace

    found = f"{platform.python_version()} ({sys.executable})"
    foreign = packages_on_python_path()
    if foreign:
        found += f"; from PYTHONPATH, not this Python's own: {', '.join(foreign)}"
    return Check("Python", "ok", found)


def _torch() -> Check:
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Check("torch", "ok", f"{torch.__version__}, {cuda}")


def _threads() -> Check:
    cores, quota = len(usable_cores()), cpu_quota()
    found = f"{cores} cores for this process" + (f", quota {quota:g}" if quota < cores else "")
    wanted, threads = os.environ.get("OMP_NUM_THREADS", ""), requested_threads()
    if wanted and threads is None:
        remedy = "set it to a number of threads, or unset it"
        return Check("threads", "warn", f"{found}, OMP_NUM_THREADS={wanted!r}", remedy)
    if threads is not None:
        found += f", OMP_NUM_THREADS={wanted} (a rank uses at most its share of the cores)"
    return Check("threads", "ok", found)


def enough_gpus(wanted: int) -> Check:
    """Check that torch finds as many GPUs as the job requested on this node."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < wanted:
        return Check("GPUs", "fail", f"{found} of {wanted} found", "run nvidia-smi on this node")
    return Check("GPUs", "ok", str(found))


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", "ok", f"{len(names)}: {', '.join(sorted(set(names)))}")
    if shutil.which("nvidia-smi"):
        remedy = (
            "install a torch built for CUDA"
            if not torch.version.cuda
            else "check the driver with nvidia-smi"
        )
        return Check("GPU", "warn", "nvidia-smi is installed, but torch finds no GPU", remedy)
    return Check("GPU", "ok", "none; training runs on the CPU")


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
            "activate the environment that contains it, or use srun",
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
            f"{version} was built with torch {built_with}, but torch is {torch.__version__}",
            "hvd-dqn build-horovod --force",
        )
    return Check("Horovod", "ok", f"{version}, built with torch {built_with or 'unknown'}")


def _nccl() -> Check:
    import torch

    nccl = bool(load_horovod().nccl_built())
    if torch.cuda.is_available() and not nccl:
        remedy = "install the CUDA toolkit and NCCL, then run hvd-dqn build-horovod --force"
        return Check(
            "NCCL", "warn", "not built in: allreduces of GPU tensors go through the host", remedy
        )
    return Check("NCCL", "ok", "built in" if nccl else "not built in; not needed without a GPU")


def _two_ranks() -> Check:
    result = probe_two_ranks()
    if len(result.libmpi) > 1:
        return Check(
            "two ranks",
            "fail",
            f"Horovod and mpi4py load different MPI libraries: {', '.join(result.libmpi)}",
            MPI4PY_REMEDY,
        )
    if result.milliseconds is None:
        return Check("two ranks", "warn", NOT_TRIED, TRY_THEM)
    return Check(
        "two ranks", "ok", f"summed a tensor through Horovod in {result.milliseconds:.2f} ms"
    )


def _torch_of_horovod() -> str | None:
    """Return the version of torch that Horovod was built with, from its metadata."""
    import json
    from pathlib import Path

    import horovod

    try:
        recorded = json.loads((Path(horovod.__file__).parent / "metadata.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    version = recorded.get("pytorch")
    return version if isinstance(version, str) else None
