"""Our changes to Horovod's background thread, for learners that share their core with it.

Where `HOROVOD_IDLE_CYCLE_TIME` (ms) is set:

- The thread sleeps so long, and not `HOROVOD_CYCLE_TIME`, where there is nothing to do: every cycle
  is a small collective of all ranks, and takes a tenth of a core where it comes a thousand times a
  second.
- Who waits for a tensor makes the cycle itself, in the thread's place: waking another thread and
  being woken by it costs more than the sum of a small network's gradients. `poll` wakes the
  thread, for a tensor that nobody waits for yet. Not in builds for GPUs, where the thread belongs
  to a device: there it wakes for every tensor.

And who waits sleeps, where it took the core, and the GIL again and again, from the thread.
"""

from __future__ import annotations

from pathlib import Path

from hvd_dqn.common.errors import UserError


def share_a_core(horovod: Path) -> None:
    """Change the package's sources in place. `UserError` where they are not Horovod 0.28.1's."""
    _wake_the_thread(horovod / "common")
    _take_its_place(horovod / "common")
    _wait_asleep(horovod / "torch")


def _wake_the_thread(common: Path) -> None:
    queue = common / "tensor_queue.h"
    replace(
        queue,
        "#include <iostream>\n",
        "#include <chrono>\n#include <condition_variable>\n#include <iostream>\n",
    )
    replace(
        queue,
        "  void FinalizeTensorQueue(",
        "  // Sleeps until that time, or until it is woken and there is work: a tensor, an end.\n"
        "  void WaitForTensor(std::chrono::steady_clock::time_point until);\n"
        "  bool HasWork() const;\n"
        "  void Wake();\n"
        "  void Begin();\n"
        "  void End();\n\n"
        "  void FinalizeTensorQueue(",
    )
    replace(
        queue,
        "  mutable std::mutex mutex_;\n",
        "  mutable std::mutex mutex_;\n\n  std::condition_variable added_;\n"
        "  bool ended_ = false;\n",
    )
    added = "  message_queue_.push(std::move(message));\n"
    several = "    message_queue_.push(std::move(messages[i]));\n  }\n"
    notify = "#if HAVE_GPU\n  added_.notify_one();\n#endif\n"
    queue = common / "tensor_queue.cc"
    replace(queue, added + "  return Status::OK();\n", added + notify + "  return Status::OK();\n")
    replace(queue, several, several + notify)
    execute = "// Execute callback for each tensor and clear tensor queue\n"
    replace(
        queue,
        execute,
        """\
void TensorQueue::WaitForTensor(std::chrono::steady_clock::time_point until) {
  std::unique_lock<std::mutex> lock(mutex_);
  added_.wait_until(lock, until, [this] { return ended_ || !tensor_table_.empty(); });
}

bool TensorQueue::HasWork() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return ended_ || !tensor_table_.empty();
}

void TensorQueue::Wake() { added_.notify_one(); }

void TensorQueue::Begin() {
  std::lock_guard<std::mutex> lock(mutex_);
  ended_ = false;
}

void TensorQueue::End() {
  std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  added_.notify_one();
}

"""
        + execute,
    )


def _take_its_place(common: Path) -> None:
    """A cycle is made by one thread at a time, whichever it is, so that all ranks' collectives come
    in the same order.
    """
    header = common / "operations.h"
    initialized = "Status CheckInitialized();\n"
    replace(
        header,
        initialized,
        initialized
        + """
// Makes the background thread's next cycle in its place, unless that is at one or there is nothing
// to do; says whether it did. For a thread that waits for a tensor.
bool MakeCycleWhileWaiting();

// Has the background thread begin a cycle, if it sleeps and there is something to do.
void WakeThread();
""",
    )
    operations = common / "operations.cc"
    replace(operations, "#include <cassert>\n", "#include <cassert>\n#include <cstdlib>\n")
    declared = "bool RunLoopOnce(HorovodGlobalState& state);\n"
    replace(
        operations,
        declared,
        declared
        + """
// A cycle, with `cycle_mutex` held; false if it was the last, or there are none any more.
bool RunCycle(HorovodGlobalState& state);
std::mutex cycle_mutex;
bool cycles_ended = false;

// When the ranks last had agreed on what to do: about the same time on all of them.
std::chrono::steady_clock::time_point agreed;

// Zero where it is not set, or where tensors of several process sets would have to be waited for.
std::chrono::microseconds IdleCycleTime(HorovodGlobalState& state) {
  static const char* milliseconds = std::getenv("HOROVOD_IDLE_CYCLE_TIME");
  bool one_set = !state.dynamic_process_sets && state.process_set_table.Ids().size() == 1;
  return std::chrono::microseconds(
      milliseconds != nullptr && one_set ? long(std::atof(milliseconds) * 1000.) : 0);
}

void BeginCycles(HorovodGlobalState& state) {
  std::lock_guard<std::mutex> lock(cycle_mutex);
  cycles_ended = false;
  state.process_set_table.Get(0).tensor_queue.Begin();
}

void EndCycles() {
  std::lock_guard<std::mutex> lock(cycle_mutex);
  cycles_ended = true;
}
""",
    )
    initialized = "  // Signal that initialization is completed.\n"
    replace(operations, initialized, "  BeginCycles(state);\n\n" + initialized)
    replace(operations, "\nshutdown:\n", "\nshutdown:\n  EndCycles();\n\n")
    replace(
        operations,
        """\
  // This delay determines thread frequency and communication message latency
  auto start_time = std::chrono::steady_clock::now();
  auto sleep_duration = state.last_cycle_start +
                        std::chrono::microseconds(long(
                            state.parameter_manager.CycleTimeMs() * 1000.)) -
                        start_time;
  if (sleep_duration > std::chrono::steady_clock::duration::zero()) {
    std::this_thread::sleep_for(sleep_duration);
  }
  state.last_cycle_start = std::chrono::steady_clock::now();
""",
        """\
  std::unique_lock<std::mutex> lock(cycle_mutex);
  auto idle = IdleCycleTime(state);
  if (idle.count() == 0) {
    // This delay determines thread frequency and communication message latency
    auto due = state.last_cycle_start +
               std::chrono::microseconds(long(state.parameter_manager.CycleTimeMs() * 1000.));
    lock.unlock();
    std::this_thread::sleep_until(due);
    lock.lock();
    return RunCycle(state);
  }
  // From when all ranks were at the same point, so that they begin this cycle together: who is
  // before the others takes a core until they come.
  auto due = agreed + idle;
  lock.unlock();
  auto& queue = state.process_set_table.Get(0).tensor_queue;
  queue.WaitForTensor(due);
  lock.lock();
  if (!cycles_ended && !queue.HasWork() && std::chrono::steady_clock::now() < agreed + idle) {
    return true; // others have made its cycles
  }
  return RunCycle(state);
}

bool RunCycle(HorovodGlobalState& state) {
  if (cycles_ended) {
    return false;
  }
  state.last_cycle_start = std::chrono::steady_clock::now();
""",
    )
    replace(
        operations,
        "    if (process_set_id == 0) {\n      state.mark_cycles_in_timeline =",
        "    if (process_set_id == 0) {\n"
        "      agreed = std::chrono::steady_clock::now();\n"
        "      state.mark_cycles_in_timeline =",
    )
    replace(
        operations,
        "  return !should_shutdown;\n",
        "  cycles_ended = should_shutdown;\n  return !should_shutdown;\n",
    )
    replace(
        operations,
        'extern "C" {\n\nbool horovod_init(',
        """\
bool MakeCycleWhileWaiting() {
#if !HAVE_GPU
  auto& state = horovod_global;
  std::unique_lock<std::mutex> lock(cycle_mutex, std::try_to_lock);
  if (!lock.owns_lock() || cycles_ended || !state.initialization_done ||
      IdleCycleTime(state).count() == 0) {
    return false;
  }
  auto& queue = state.process_set_table.Get(0).tensor_queue;
  if (!queue.HasWork()) {
    return false;
  }
  try {
    RunCycle(state);
  } catch (const std::exception& error) {
    LOG(ERROR, state.global_controller->GetRank())
        << "Horovod cycle of a waiting thread: uncaught exception: " << error.what();
    cycles_ended = true;
  }
  if (cycles_ended) {
    queue.End(); // the background thread tells those who wait
  }
  return true;
#else
  return false;
#endif
}

void WakeThread() { horovod_global.process_set_table.Get(0).tensor_queue.Wake(); }

extern "C" {

bool horovod_init(""",
    )
    end = "    horovod_global.shut_down = true;\n"
    wake = "    horovod_global.process_set_table.Get(0).tensor_queue.End();\n"
    replace(operations, end, end + wake)


def _wait_asleep(torch: Path) -> None:
    handles = torch / "handle_manager.h"
    replace(handles, "#include <memory>\n", "#include <condition_variable>\n#include <memory>\n")
    replace(
        handles,
        "  bool PollHandle(int handle);\n",
        "  bool PollHandle(int handle);\n  void WaitForHandle(int handle);\n",
    )
    replace(
        handles,
        "  std::mutex mutex_;\n",
        "  std::mutex mutex_;\n  std::condition_variable done_;\n",
    )
    handles = torch / "handle_manager.cc"
    done = "  results_[handle] = std::make_shared<Status>(status);\n"
    replace(handles, done, done + "  done_.notify_all();\n")
    replace(
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
    operations = torch / "mpi_ops_v2.cc"
    replace(
        operations,
        "int PollHandle(int handle) { return handle_manager.PollHandle(handle) ? 1 : 0; }\n",
        """\
int PollHandle(int handle) {
  if (handle_manager.PollHandle(handle)) {
    return 1;
  }
  common::WakeThread();
  return 0;
}
""",
    )
    replace(
        operations,
        "      std::this_thread::yield();\n",
        """\
      if (!common::MakeCycleWhileWaiting()) {
        common::WakeThread();
        handle_manager.WaitForHandle(handle);
      }
""",
    )


def replace(path: Path, old: str, new: str) -> None:
    """In a file. `UserError` where it lacks `old`."""
    text = path.read_text()
    if old not in text:
        raise UserError(f"{path} is not Horovod 0.28.1's: it lacks {old!r}")
    path.write_text(text.replace(old, new))
