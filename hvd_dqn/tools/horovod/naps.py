"""Our changes to how Horovod's background thread waits for other ranks, for learners that share
their core with it.

MPI waits by looking again and again, which takes half of the core from the learner, and yet moves
messages within its own calls alone. So the thread looks, sleeps a little and looks again; as soon
as somebody waits for a tensor, it waits as MPI does. That is for what every cycle has, the ranks'
agreement on what to do, and for those sums of tensors whose names say that they are to be made
while the learner computes (`distributed.horovod.OVERLAPPED`). The others are left to MPI's blocking
sum, which libraries tune. All ranks must call the same of the two: nothing but the name decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvd_dqn.distributed.horovod import OVERLAPPED
from hvd_dqn.distributed.mpi_sum import LONGEST_NAP, NAP_GROWTH, SHORTEST_NAP
from hvd_dqn.tools.horovod.thread import replace

if TYPE_CHECKING:
    from pathlib import Path

_DECLARED = """
// As MPI_Allreduce; asleep between looks at whether it is done while nobody waits for a tensor.
int AllreduceAsleep(const void* sendbuf, void* recvbuf, int count, MPI_Datatype datatype, MPI_Op op,
                    MPI_Comm comm);

} // namespace common
} // namespace horovod

#endif // HOROVOD_MPI_CONTEXT_H
"""

_DEFINED = """
int AllreduceAsleep(const void* sendbuf, void* recvbuf, int count, MPI_Datatype datatype, MPI_Op op,
                    MPI_Comm comm) {
  MPI_Request request;
  int code = MPI_Iallreduce(sendbuf, recvbuf, count, datatype, op, comm, &request);
  int done = 0;
  for (bool again = false; code == MPI_SUCCESS && !done; again = true) {
    code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (code == MPI_SUCCESS && !done && !Nap(again)) {
      return MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
  }
  return code;
}
"""

NAP_DECLARED = """
// Somebody waits for a tensor as long as there is one of these.
struct Waiting {
  Waiting();
  ~Waiting();
};

// Sleeps for a moment, or until somebody waits for a tensor; false if somebody does, or where the
// thread has a core of its own. Moments become longer, and shorter where somebody began to wait: so
// it is told whether this is the first for a tensor, which is waited for already by who makes it.
bool Nap(bool again);
"""

NAPS = f"""\
constexpr double SHORTEST = {1e9 * SHORTEST_NAP}, LONGEST = {1e9 * LONGEST_NAP}; // ns
constexpr double GROWTH = {NAP_GROWTH};
"""
"""As of the `mpi` backend."""

NAP_DEFINED = """
std::mutex waiting_mutex;
std::condition_variable waiting_began;
int waiting = 0;

Waiting::Waiting() {
  {
    std::lock_guard<std::mutex> lock(waiting_mutex);
    ++waiting;
  }
  waiting_began.notify_all();
}

Waiting::~Waiting() {
  std::lock_guard<std::mutex> lock(waiting_mutex);
  --waiting;
}

double nap = LONGEST;

bool Nap(bool again) {
#if HAVE_GPU
  return false;
#else
  static const bool shares_a_core = std::getenv("HOROVOD_IDLE_CYCLE_TIME") != nullptr;
  std::unique_lock<std::mutex> lock(waiting_mutex);
  bool is_waited_for = waiting > 0;
  if (!shares_a_core || (is_waited_for && !again)) {
    return false;
  }
  if (!is_waited_for) {
#ifdef __linux__
    // or the kernel adds 50 us
    static thread_local int on_time = prctl(PR_SET_TIMERSLACK, 1L, 0L, 0L, 0L);
    (void)on_time;
#endif
    is_waited_for = waiting_began.wait_for(lock, std::chrono::nanoseconds(long(nap)),
                                           [] { return waiting > 0; });
  }
  nap = is_waited_for ? std::max(nap / 2, SHORTEST) : std::min(nap * GROWTH, LONGEST);
  return !is_waited_for;
#endif
}

"""


def nap_while_nobody_waits(horovod: Path) -> None:
    """Change the package's sources in place, behind `horovod_thread.share_a_core`. `UserError`
    where they are not Horovod 0.28.1's.
    """
    common = horovod / "common"
    declared = "// Has the background thread begin a cycle,"
    replace(common / "operations.h", declared, NAP_DECLARED.lstrip() + "\n" + declared)
    operations = common / "operations.cc"
    replace(
        operations,
        "#include <cassert>\n",
        "#include <algorithm>\n#include <cassert>\n#include <condition_variable>\n"
        "#ifdef __linux__\n#include <sys/prctl.h>\n#endif\n",
    )
    defined = "bool MakeCycleWhileWaiting() {\n"
    replace(operations, defined, NAPS + NAP_DEFINED + defined)

    closed = "\n} // namespace common\n} // namespace horovod\n\n#endif // HOROVOD_MPI_CONTEXT_H\n"
    replace(common / "mpi/mpi_context.h", closed, _DECLARED)
    context = common / "mpi/mpi_context.cc"
    replace(
        context,
        '#include "../logging.h"\n',
        '#include "../logging.h"\n#include "../operations.h"\n',
    )
    closed = "\n} // namespace common\n} // namespace horovod\n"
    replace(context, closed, _DEFINED + closed)

    agree = "int ret_code = MPI_Allreduce(MPI_IN_PLACE, bitvector.data(), count,"
    replace(
        common / "mpi/mpi_controller.cc", agree, agree.replace("MPI_Allreduce", "AllreduceAsleep")
    )
    summed = "  int op =\n      MPI_Allreduce(sendbuf, buffer_data, (int)num_elements,\n"
    replace(
        common / "ops/mpi_operations.cc",
        summed,
        f'  bool overlapped = first_entry.tensor_name.find("{OVERLAPPED}") != std::string::npos;\n'
        "  int op =\n"
        "      (overlapped ? AllreduceAsleep : MPI_Allreduce)(\n"
        "                    sendbuf, buffer_data, (int)num_elements,\n",
    )
    wait = "      if (!common::MakeCycleWhileWaiting()) {\n"
    replace(horovod / "torch/mpi_ops_v2.cc", wait, "      common::Waiting waiting;\n" + wait)
