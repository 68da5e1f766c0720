"""Build Horovod against the torch, MPI, CUDA and NCCL on this machine, cache the wheel, install it
and check that it works.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.horovod import load_horovod
from hvd_dqn.tools.horovod.recipe import current_recipe, installed_recipe
from hvd_dqn.tools.horovod.source import HOROVOD_VERSION, change_source
from hvd_dqn.tools.horovod.toolchain import (
    CudaChoice,
    Toolchain,
    build_environment,
    choose_cuda,
    find_cuda,
    find_toolchain,
    search_path,
)
from hvd_dqn.tools.probe import (
    MPI4PY_REMEDY,
    NOT_TRIED,
    TRY_THEM,
    ProbeResult,
    probe_two_ranks,
)

_PERCENT = re.compile(r"\[\s*(\d+)%\]")
_WHEEL_BYTES = 32 << 20
_KEPT = "Horovod works and is up to date: kept"
_ELSEWHERE = "Horovod comes from elsewhere and works: kept (--force replaces it with our build)"


def build_horovod(*, force: bool, cuda: bool | None = None) -> None:
    """Install a Horovod that works and is up to date in this Python's site-packages.

    Without `force`, a Horovod that works is kept if it was built from today's recipe or comes from
    elsewhere (conda, a module). `cuda` says whether to build with CUDA and NCCL; None chooses by
    what this machine has. Raises `UserError` naming whatever is missing.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    recorded = installed_recipe()
    choice = choose_cuda(cuda, recorded)
    if not force:
        try:
            reason = _reason_to_build(choice, recorded)
            if reason is None:
                tried = check_horovod().milliseconds is not None
                console.print(_ELSEWHERE if recorded is None else _KEPT)
                if not tried:
                    console.print(f"{NOT_TRIED}: {TRY_THEM}")
                return
        except UserError as error:
            reason = f"Horovod is built: {error.found}"
        console.print(reason)
    toolchain = find_toolchain(choice)
    console.print(f"Horovod {HOROVOD_VERSION} for {toolchain.describe()}")
    if toolchain.warning:
        console.print(f"note: {toolchain.warning}")
    place = _cache_of(toolchain.key())
    wheel = None if place is None or force else next(iter(place.glob("horovod-*.whl")), None)
    if wheel is None:
        wheel = _build_wheel(toolchain, _place_for_a_wheel(place, console), console)
    else:
        console.print(f"wheel from the cache: {wheel}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    _run([*pip, str(wheel)], "install the wheel")
    _say_that_it_works(check_horovod(), console)


def _say_that_it_works(result: ProbeResult, console: Console) -> None:
    details = f"({', '.join(result.libmpi)}){', NCCL built in' if result.nccl else ''}"
    if result.milliseconds is None:
        console.print(f"Horovod loads with {result.mpi_library} {details}")
        console.print(f"{NOT_TRIED}: {TRY_THEM}")
    else:
        console.print(
            f"Horovod works: two ranks summed a tensor in {result.milliseconds:.2f} ms through "
            f"{result.mpi_library} {details}"
        )


def check_horovod() -> ProbeResult:
    """Let two ranks load Horovod and sum a tensor, or one process load it if there is no mpirun.

    Raises `UserError` if they fail, or if they load another libmpi beside mpi4py's.
    """
    result = probe_two_ranks()
    if len(result.libmpi) > 1:
        raise UserError(
            f"Horovod and mpi4py load different MPI libraries ({', '.join(result.libmpi)})",
            MPI4PY_REMEDY,
        )
    return result


def _cache_of(key: str) -> Path | None:
    """Return the directory that caches the wheel of this key, or None if no home is known."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(home) / "hvd_dqn" / "horovod" / key


def _place_for_a_wheel(cache: Path | None, console: Console) -> Path:
    """Return `cache`, created, or a temporary directory, which stays, if there is no room for a
    wheel: the home is full, read-only or unknown.
    """
    try:
        if cache is None:
            raise OSError("no home is known")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(bytes(_WHEEL_BYTES))
    except OSError as error:
        place = Path(tempfile.mkdtemp(prefix="hvd-dqn-wheel-"))
        console.print(f"note: {place} replaces the cache of wheels in the home ({error})")
        return place
    return cache


def _reason_to_build(choice: CudaChoice, recorded: Mapping[str, object] | None) -> str | None:
    """Return the line that says why Horovod is built, or None if the installed one can be kept if
    it works. Raises `UserError` if it does not load.
    """
    if recorded is not None:
        changed = current_recipe().differences(recorded)
        # Only what can be built here counts as a change, unless the user asked for it.
        possible = choice.asked or not choice.wanted or find_cuda(choice)[0] is not None
        before = bool(recorded.get("cuda")), bool(recorded.get("cuda_asked"))
        if possible and before != (choice.wanted, choice.asked):
            changed.append("choice of CUDA")
        if changed:
            return f"Horovod is rebuilt: its {' and '.join(changed)} changed"
    load_horovod()
    return None


def _build_wheel(toolchain: Toolchain, cache: Path, console: Console) -> Path:
    with tempfile.TemporaryDirectory(prefix="hvd-dqn-horovod-") as scratch:
        work = Path(scratch)
        console.print("fetching the source distribution")
        source = _fetch_source(work)
        change_source(
            source,
            torch_version=Version(toolchain.recipe.torch),
            with_cuda=toolchain.cuda_home is not None,
            extra_library_dirs=toolchain.extra_library_dirs(),
            record=toolchain.record(),
        )
        log = cache / "build.log"
        console.print(f"compiling (2 to 5 minutes on a few cores); log: {log}")
        command = [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", str(work / "dist")]
        _run_with_progress(command, source, build_environment(toolchain, work), log, console)
        built = next((work / "dist").glob("*.whl"))
        # Rename the finished copy, so that an interrupted build leaves no wheel behind.
        partial = cache / (built.name + ".partial")
        shutil.copy(built, partial)
        return partial.rename(cache / built.name)


def _fetch_source(work: Path) -> Path:
    """Download Horovod's source distribution and unpack it in `work`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    _run(
        [*pip, "--no-build-isolation", "--dest", str(work), f"horovod=={HOROVOD_VERSION}"],
        "fetch Horovod's source distribution",
    )
    archive = next(work.glob("horovod-*.tar.gz"))
    with tarfile.open(archive) as tar:
        # Python before 3.10.12 and 3.11.4 has no filters.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(work)
    return work / archive.name.removesuffix(".tar.gz")


def _run(command: list[str], purpose: str) -> None:
    # pip cannot install for the user, as a user's settings may ask, in a virtual environment.
    environment = os.environ | {"PATH": search_path(), "PIP_USER": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        last = said[-1].strip() if said else "no output"
        raise UserError(f"could not {purpose}: {last} (command: {' '.join(command)})")


def _run_with_progress(
    command: list[str], directory: Path, environment: dict[str, str], log: Path, console: Console
) -> None:
    """Compile, with the output in `log`. Shows a bar on a terminal, elsewhere a line every 10 %."""
    bar = Progress(
        TextColumn("compiling"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=100)
    tenth = 0
    with log.open("w") as file, bar:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if found := _PERCENT.search(line):
                percent = int(found.group(1))
                bar.update(task, completed=percent)
                if not console.is_terminal and percent // 10 > tenth:
                    tenth = percent // 10
                    console.print(f"compiling: {percent} %")
        code = process.wait()
    if code != 0:
        said = log.read_text().splitlines()
        errors = (line.strip() for line in said if re.search(r"\berror\b", line, re.IGNORECASE))
        raise UserError(f"Horovod did not compile: {next(errors, 'see the log')} (log: {log})")
