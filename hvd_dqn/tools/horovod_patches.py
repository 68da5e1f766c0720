"""Our changes to Horovod 0.28.1's sources: what keeps it from building and running with today's
torch, gcc, Python and Open MPI, and what keeps its thread off a core that it shares with a learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from hvd_dqn.errors import UserError


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
        _replace(source / name, "set(CMAKE_CXX_STANDARD 14)", f"set(CMAKE_CXX_STANDARD {standard})")

    # gcc 13 no longer includes these by way of others (horovod#3957).
    for name in ("horovod/common/common.h", "horovod/common/group_table.h"):
        header = source / name
        header.write_text("#include <stdexcept>\n#include <string>\n" + header.read_text())

    # Python 3.12 has no distutils.
    _replace(
        source / "horovod/torch/CMakeLists.txt",
        "from distutils.sysconfig import get_python_inc; print(get_python_inc())",
        "import sysconfig; print(sysconfig.get_path('include'))",
    )
    _replace(
        source / "horovod/runner/js_run.py",
        "from distutils.spawn import find_executable",
        "from shutil import which as find_executable",
    )

    # Open MPI 5 takes these with two dashes only; 4 takes both.
    _replace(
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
    _replace(
        source / "CMakeLists.txt",
        "project(horovod CXX)\n",
        "project(horovod CXX)\nset(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\n"
        f'set(CMAKE_INSTALL_RPATH "{";".join(places)}")\n',
    )

    if not with_cuda:
        # A torch with CUDA would pull in a toolkit that is not there, or not torch's.
        _replace(
            source / "horovod/torch/CMakeLists.txt",
            "elseif (Pytorch_CUDA AND NOT HAVE_CUDA)\n    add_cuda()\nendif()",
            "endif()",
        )

    # CUDA 13, and CUDA 12 with gcc 14 (horovod#4313), no longer take C++11.
    cuda = source / "horovod/common/ops/cuda/CMakeLists.txt"
    _replace(cuda, "set(CMAKE_CUDA_STANDARD 11)", "set(CMAKE_CUDA_STANDARD 17)")

    _begin_a_cycle_with_its_tensor(source / "horovod/common")
    _sleep_until_done(source / "horovod/torch")


def _begin_a_cycle_with_its_tensor(common: Path) -> None:
    """Where `HOROVOD_IDLE_CYCLE_TIME` (ms) is set, Horovod's thread sleeps so long, or until there
    is a tensor or an end: every cycle is a small collective of all ranks, and a short
    `HOROVOD_CYCLE_TIME` takes a tenth of a core from a learner that shares it, a long one makes
    every sum wait.
    """
    queue = common / "tensor_queue.h"
    _replace(
        queue,
        "#include <iostream>\n",
        "#include <chrono>\n#include <condition_variable>\n#include <iostream>\n",
    )
    _replace(
        queue,
        "  void FinalizeTensorQueue(",
        "  void WaitForTensor(std::chrono::steady_clock::duration at_most);\n"
        "  void EndWaiting();\n\n"
        "  void FinalizeTensorQueue(",
    )
    _replace(
        queue,
        "  mutable std::mutex mutex_;\n",
        "  mutable std::mutex mutex_;\n\n  std::condition_variable added_;\n"
        "  bool ended_ = false;\n",
    )
    added = "  message_queue_.push(std::move(message));\n"
    several = "    message_queue_.push(std::move(messages[i]));\n  }\n"
    notify = "  added_.notify_one();\n"
    queue = common / "tensor_queue.cc"
    _replace(queue, added + "  return Status::OK();\n", added + notify + "  return Status::OK();\n")
    _replace(queue, several, several + notify)
    _replace(
        queue,
        "// Execute callback for each tensor and clear tensor queue\n",
        """\
void TensorQueue::WaitForTensor(std::chrono::steady_clock::duration at_most) {
  std::unique_lock<std::mutex> lock(mutex_);
  added_.wait_for(lock, at_most, [this] { return ended_ || !tensor_table_.empty(); });
  ended_ = false;
}

void TensorQueue::EndWaiting() {
  std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  added_.notify_one();
}

// Execute callback for each tensor and clear tensor queue
""",
    )
    operations = common / "operations.cc"
    _replace(operations, "#include <cassert>\n", "#include <cassert>\n#include <cstdlib>\n")
    end = "    horovod_global.shut_down = true;\n"
    wake = "    horovod_global.process_set_table.Get(0).tensor_queue.EndWaiting();\n"
    _replace(operations, end, end + wake)
    _replace(
        operations,
        """\
  if (sleep_duration > std::chrono::steady_clock::duration::zero()) {
    std::this_thread::sleep_for(sleep_duration);
  }
""",
        """\
  static const char* idle_ms = std::getenv("HOROVOD_IDLE_CYCLE_TIME");
  if (idle_ms != nullptr && state.process_set_table.Ids().size() == 1) {
    state.process_set_table.Get(0).tensor_queue.WaitForTensor(
        std::chrono::microseconds(long(std::atof(idle_ms) * 1000.)));
  } else if (sleep_duration > std::chrono::steady_clock::duration::zero()) {
    std::this_thread::sleep_for(sleep_duration);
  }
""",
    )


def _sleep_until_done(torch: Path) -> None:
    """`synchronize` sleeps until the tensor is done, where it took the core, and the GIL again and
    again, from the thread that it waits for.
    """
    handles = torch / "handle_manager.h"
    _replace(handles, "#include <memory>\n", "#include <condition_variable>\n#include <memory>\n")
    _replace(
        handles,
        "  bool PollHandle(int handle);\n",
        "  bool PollHandle(int handle);\n  void WaitForHandle(int handle);\n",
    )
    _replace(
        handles,
        "  std::mutex mutex_;\n",
        "  std::mutex mutex_;\n  std::condition_variable done_;\n",
    )
    handles = torch / "handle_manager.cc"
    done = "  results_[handle] = std::make_shared<Status>(status);\n"
    _replace(handles, done, done + "  done_.notify_all();\n")
    _replace(
        handles,
        "std::shared_ptr<Status> HandleManager::ReleaseHandle(",
        """\
void HandleManager::WaitForHandle(int handle) {
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this, handle] {
    auto result = results_.find(handle);
    return result == results_.end() || result->second != nullptr;
  });
}

std::shared_ptr<Status> HandleManager::ReleaseHandle(""",
    )
    _replace(
        torch / "mpi_ops_v2.cc",
        "      std::this_thread::yield();\n",
        "      handle_manager.WaitForHandle(handle);\n",
    )


def cxx_standard(torch_version: Version) -> int:
    """The C++ standard that torch's headers ask for."""
    if torch_version.release >= (2, 14):
        return 20
    return 17 if torch_version.release >= (2, 1) else 14


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if old not in text:
        raise UserError(f"{path} is not Horovod 0.28.1's: it lacks {old!r}")
    path.write_text(text.replace(old, new))
