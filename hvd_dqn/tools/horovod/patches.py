"""Our changes to Horovod 0.28.1's sources: what keeps it from building and running with today's
torch, gcc, Python and Open MPI. Those to its thread are in `horovod_thread` and
`horovod_naps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from hvd_dqn.tools.horovod.naps import nap_while_nobody_waits
from hvd_dqn.tools.horovod.thread import replace, share_a_core


def apply_patches(
    source: Path,
    *,
    torch_version: Version,
    with_cuda: bool,
    extra_library_dirs: Sequence[Path],
) -> None:
    """Change an unpacked source distribution in place. `UserError` where it is not the one these
    changes are for.
    """
    standard = cxx_standard(torch_version)
    for name in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        replace(source / name, "set(CMAKE_CXX_STANDARD 14)", f"set(CMAKE_CXX_STANDARD {standard})")

    # gcc 13 no longer includes these by way of others (horovod#3957).
    for name in ("horovod/common/common.h", "horovod/common/group_table.h"):
        header = source / name
        header.write_text("#include <stdexcept>\n#include <string>\n" + header.read_text())

    # Python 3.12 has no distutils.
    replace(
        source / "horovod/torch/CMakeLists.txt",
        "from distutils.sysconfig import get_python_inc; print(get_python_inc())",
        "import sysconfig; print(sysconfig.get_path('include'))",
    )
    replace(
        source / "horovod/runner/js_run.py",
        "from distutils.spawn import find_executable",
        "from shutil import which as find_executable",
    )

    # Open MPI 5 takes these with two dashes only; 4 takes both.
    replace(
        source / "horovod/runner/mpi_run.py",
        "return list(_OMPI_FLAGS), list(_NO_BINDING_ARGS), _OMPI_IMPL",
        "return list(_OMPI_FLAGS), ['--bind-to none', '--map-by slot'], _OMPI_IMPL",
    )

    # Libraries are found from the library's own place, so that a wheel serves any virtual
    # environment: torch's and NCCL's beside it in site-packages, and MPI's in the environment's
    # lib, which is four directories up.
    places = [
        "$ORIGIN/../../torch/lib",
        "$ORIGIN/../../nvidia/nccl/lib",
        "$ORIGIN/../../../..",
        *map(str, extra_library_dirs),
    ]
    replace(
        source / "CMakeLists.txt",
        "project(horovod CXX)\n",
        "project(horovod CXX)\nset(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\n"
        f'set(CMAKE_INSTALL_RPATH "{";".join(places)}")\n',
    )

    if not with_cuda:
        # A torch with CUDA would pull in a toolkit that is not there, or not torch's.
        replace(
            source / "horovod/torch/CMakeLists.txt",
            "elseif (Pytorch_CUDA AND NOT HAVE_CUDA)\n    add_cuda()\nendif()",
            "endif()",
        )

    # CUDA 13, and CUDA 12 with gcc 14 (horovod#4313), no longer take C++11.
    cuda = source / "horovod/common/ops/cuda/CMakeLists.txt"
    replace(cuda, "set(CMAKE_CUDA_STANDARD 11)", "set(CMAKE_CUDA_STANDARD 17)")

    share_a_core(source / "horovod")
    nap_while_nobody_waits(source / "horovod")


def cxx_standard(torch_version: Version) -> int:
    """The C++ standard that torch's headers ask for."""
    if torch_version.release >= (2, 14):
        return 20
    return 17 if torch_version.release >= (2, 1) else 14
