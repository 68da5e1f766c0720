import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed import launcher
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.distributed.launcher import detect_launch
from hvd_dqn.envs import make_vector_env
from hvd_dqn.presets import PRESETS
from hvd_dqn.run.requirements import useful_threads
from tests.launching import clean_environment, hvd_dqn, launch, launcher_command
from tests.short_runs import run_of

connecting = importlib.import_module("hvd_dqn.distributed.connect")  # the function hides the module
INTERFACE = launcher.NETWORK_INTERFACE
MULTIRANK = pytest.mark.multirank


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, (1, 4)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, (2, 3)),
        ({"MV2_COMM_WORLD_RANK": "2", "MV2_COMM_WORLD_SIZE": "3"}, (2, 3)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "2"}, (1, 2)),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}, (1, 2)),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"}, (1, 2)),
        # no size: 0
        ({"PALS_RANKID": "3"}, (3, 0)),
        ({"PMIX_RANK": "0"}, (0, 0)),
        ({"ALPS_APP_PE": "1"}, (1, 0)),
        # torchrun, accelerate, deepspeed
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3"}, None),
        ({"WORLD_SIZE": "3"}, None),
        # a torch launcher's variables, set for the ranks of an MPI
        (
            {"RANK": "0", "WORLD_SIZE": "9"}
            | {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
            (3, 4),
        ),
        # torchrun in a step of one task
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"} | {"RANK": "1", "WORLD_SIZE": "2"},
            (1, 2),
        ),
        # exported, but empty
        ({"SLURM_PROCID": "", "SLURM_STEP_NUM_TASKS": "", "SLURM_NODEID": ""}, None),
        ({"OMPI_COMM_WORLD_RANK": "", "OMPI_COMM_WORLD_SIZE": ""}, None),
        ({"RANK": "x", "WORLD_SIZE": "2"}, None),
        # an interactive shell, or a batch script, on a compute node
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, None),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        # mpirun within a Slurm job
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}
            | {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
            (3, 4),
        ),
    ],
)
def test_a_launch_is_read_from_the_environment(environ, expected):
    launch = detect_launch(environ)
    assert (launch and (launch.rank, launch.world_size)) == expected


@pytest.mark.parametrize(
    ("told", "node", "expected"),
    [("2(x3),1", "2", 2), ("2(x3),1", "3", 1), ("16", "0", 16), ("2(x3),1", "4", 0), ("", "0", 0)],
)
def test_srun_gives_the_number_of_ranks_per_node(told, node, expected):
    environ = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "7", "SLURM_NODEID": node}
    launch = detect_launch(environ | {"SLURM_STEP_TASKS_PER_NODE": told})
    assert launch is not None
    assert launch.local_size == expected


@pytest.mark.parametrize(
    "told",
    [
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"},
        pytest.param({"JSM_NAMESPACE_RANK": "0", "JSM_NAMESPACE_SIZE": "2"}, marks=MULTIRANK),
        pytest.param({"PALS_RANKID": "0"}, marks=MULTIRANK),
        pytest.param({"PMIX_RANK": "0"}, marks=MULTIRANK),
    ],
    ids=lambda told: next(iter(told)),
)
def test_processes_that_cannot_meet_are_refused(tmp_path, told):
    """Each would train the whole run by itself."""
    run_dir = tmp_path / "run"
    done = hvd_dqn("train", "cartpole", "--run-dir", str(run_dir), launcher="none", **told)
    assert done.code == 2, done.output
    (line,) = done.output.splitlines()
    assert " started 2 processes" in line or " started several processes" in line
    assert f"unset {' '.join(told)}" in line
    assert not run_dir.exists()


def test_the_users_own_backend_may_join_processes_without_mpi(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert isinstance(connecting.connect(f"{__name__}:the_users_backend"), Hosts)
    with pytest.raises(UserError, match="a launcher of torch started 2 processes"):
        connecting.connect("local")


def the_users_backend(meeting):
    assert isinstance(meeting, LocalCommunicator)
    return Hosts([])


ONE_HOST = {
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "^tcp,usnic,ofi",
    "OMPI_MCA_osc": "^ucx",
    "OMPI_MCA_osc_rdma_priority": "1",
    "UCX_TLS": "self,sm",
    "I_MPI_FABRICS": "shm",
    **dict.fromkeys(("NCCL_SOCKET_IFNAME", "FI_TCP_IFACE", "MPIR_CVAR_NETWORK_IFACE"), "lo"),
}


@pytest.mark.parametrize(
    ("ranks", "given", "expected"),
    [
        (None, {}, ONE_HOST),
        (
            (2, 2),
            {"OMPI_MCA_btl": "^openib"},
            {**ONE_HOST, "OMPI_MCA_btl": "^openib,tcp,usnic,ofi"},
        ),
        ((2, 2), {"OMPI_MCA_btl": "tcp,self"}, ONE_HOST),
        ((1, 0), {"OMPI_MCA_btl": "self,sm"}, {**ONE_HOST, "OMPI_MCA_btl": "self,sm"}),
        ((2, 2), {INTERFACE: "ib0"}, {**ONE_HOST, INTERFACE: "ib0"}),
        ((2, 1), {"OMPI_MCA_btl": "tcp,self"}, {"OMPI_MCA_btl": "tcp,self"}),
        ((0, 0), {}, {}),  # the launcher does not tell the number
        (
            (2, 1),
            {INTERFACE: "ib0", "OMPI_MCA_btl_tcp_if_include": "eth0"},
            {INTERFACE: "ib0", "OMPI_MCA_btl_tcp_if_include": "ib0"}
            | dict.fromkeys(
                ("NCCL_SOCKET_IFNAME", "FI_TCP_IFACE", "MPIR_CVAR_NETWORK_IFACE"), "ib0"
            ),
        ),
    ],
)
def test_one_host_needs_no_network_and_several_use_one_interface(ranks, given, expected):
    environ = dict(given)
    launcher.restrict_transports(ranks and launcher.Launch("x", 0, *ranks), environ)
    assert environ == expected


@pytest.mark.parametrize(
    ("tasks", "environ", "left"),
    [
        (4, {"SLURM_STEP_TASKS_PER_NODE": "4"}, 2),
        (3, {"SLURM_STEP_TASKS_PER_NODE": "4"}, None),  # mpirun's ranks in a step
        (4, {"SLURM_STEP_TASKS_PER_NODE": "4", "MPI_LOCALNRANKS": "4"}, None),
        (0, {}, None),
    ],
)
def test_the_tasks_of_a_step_that_are_left_are_counted(monkeypatch, tmp_path, tasks, environ, left):
    me = os.getpid()
    table = [
        (1, "init", "S", 0),
        (20, "slurmstepd", "S", 1),
        (21, "slurmstepd", "S", 20),
        (22, "bash", "S", 20),
        (23, "a (b) c", "R", 20),
        (24, "hvd-dqn", "Z", 20),  # it has exited
        (30, "slurmstepd", "S", 1),
        (31, "bash", "S", 30),  # of another step
        (me, "python", "R", 22),
    ]
    for pid, name, state, parent in table:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {parent} 0 0")
    monkeypatch.setattr(launcher, "_PROCESSES", tmp_path)
    found = launcher.tasks_left(
        launcher.Launch("srun", 0, 4, tasks), {"SLURM_NODEID": "0"} | environ
    )
    assert found == left
    if left is not None:
        monkeypatch.setattr(connecting, "tasks_left", lambda launch: left)
        with pytest.raises(UserError, match="srun started 4 tasks on this node, but 2 are left"):
            connecting._require_other_tasks(launcher.Launch("srun", 0, 4, tasks))


YIELD = "OMPI_MCA_mpi_yield_when_idle"
SNDBUF, RCVBUF = "OMPI_MCA_btl_tcp_sndbuf", "OMPI_MCA_btl_tcp_rcvbuf"
EAGER = {"OMPI_MCA_btl_tcp_eager_limit": "524288", SNDBUF: "2097152", RCVBUF: "2097152"}
SHORT = {"OMPI_MCA_btl_tcp_eager_limit": "65536", SNDBUF: "0", RCVBUF: "100000"}
HIDDEN = "OMPI_MCA_coll_libnbc_iallreduce_algorithm"
TUNED = "OMPI_MCA_coll_tuned_allreduce_algorithm"
RULES = "OMPI_MCA_coll_tuned_use_dynamic_rules"
LOGARITHMIC = {HIDDEN: "rabenseifner"}
ONCE = {HIDDEN: "recursive_doubling", TUNED: "recursive_doubling", RULES: "1"}
CHOSEN = {"HOROVOD_CYCLE_TIME": "5", YIELD: "0", HIDDEN: "ring"}
CYCLES = {"HOROVOD_CYCLE_TIME": "0.1", "HOROVOD_IDLE_CYCLE_TIME": "1000"}


@pytest.mark.parametrize(
    ("cores", "ranks", "given", "expected"),
    [
        (2, (8, 2), {}, {**EAGER, **CYCLES, **LOGARITHMIC, YIELD: "1"}),
        # A core for Horovod's thread: spinning is quicker.
        (4, (8, 2), {}, {**EAGER, **CYCLES, **LOGARITHMIC}),
        # The launcher does not tell.
        (64, (8, 0), {}, {**EAGER, **CYCLES, **LOGARITHMIC, YIELD: "1"}),
        (1, (8, 1), {**SHORT, **CHOSEN}, {**SHORT, **CHOSEN}),
        (4, (2, 2), {}, {**EAGER, **CYCLES, HIDDEN: "recursive_doubling"}),
        (2, (2, 1), {}, {**EAGER, **CYCLES, **ONCE}),
        (2, (2, 1), {RULES: "mine"}, {**EAGER, **CYCLES, HIDDEN: ONCE[HIDDEN], RULES: "mine"}),
    ],
)
def test_defaults_do_not_override_the_user(monkeypatch, cores, ranks, given, expected):
    monkeypatch.setattr(launcher, "usable_cores", lambda: set(range(cores)))
    monkeypatch.setattr(launcher, "socket_buffer_limit", lambda: 2**21)
    launcher.set_small_message_defaults(launcher.Launch("x", 0, *ranks), given)
    assert given == expected


def test_open_mpi_knows_its_defaults(monkeypatch):
    program = Path(sys.executable).with_name("ompi_info")
    found = program if program.exists() else shutil.which("ompi_info")
    if found is None:
        pytest.skip("no Open MPI")
    monkeypatch.setattr(launcher, "socket_buffer_limit", lambda: 2**21)
    monkeypatch.setattr(launcher, "usable_cores", lambda: {0})
    environ = {}
    launcher.set_small_message_defaults(launcher.Launch("x", 0, 2, 1), environ)
    told = subprocess.run([found, "--all", "--parsable"], capture_output=True, text=True).stdout
    for name in environ:
        prefix, _, parameter = name.partition("OMPI_MCA_")
        assert prefix or f":param:{parameter}:value:" in told, name


def test_small_sockets_are_left_to_the_kernel(monkeypatch):
    monkeypatch.setattr(launcher, "socket_buffer_limit", lambda: 212_992)
    environ = {}
    launcher.set_small_message_defaults(launcher.Launch("x", 0, 2, 1), environ)
    assert environ.keys().isdisjoint((SNDBUF, RCVBUF))


@pytest.mark.parametrize(
    ("told", "limit"), [({"r": "4000", "w": "300\n"}, 300), ({"r": "4000"}, 0)]
)
def test_what_the_host_allows_a_socket(monkeypatch, tmp_path, told, limit):
    for name, value in told.items():
        (tmp_path / f"{name}mem_max").write_text(value)
    monkeypatch.setattr(launcher, "_LIMITS_OF_SOCKETS", tmp_path)
    assert launcher.socket_buffer_limit() == limit


class Hosts(LocalCommunicator):
    def __init__(self, places):
        self.places = places

    def gather(self, value):
        return [value, *([place] for place in self.places)]  # no solver ranks


@pytest.mark.parametrize(
    ("mine", "others", "quota", "threads"),
    [
        (8, [], float("inf"), 8),
        (8, [["here", list(range(8))]], float("inf"), 4),
        (8, [["elsewhere", list(range(8))]], float("inf"), 8),
        (2, [["here", [2, 3]]], float("inf"), 2),  # bound to cores of their own
        (1, [["here", [0]]] * 3, float("inf"), 1),
        (8, [["here", list(range(8))]], 4.0, 2),
    ],
)
def test_threads_share_the_cores_that_ranks_share(monkeypatch, mine, others, quota, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(connecting, "hostname", lambda: "here")
    monkeypatch.setattr(connecting, "usable_cores", lambda: set(range(mine)))
    monkeypatch.setattr(connecting, "cpu_quota", lambda: quota)
    assert connecting.compute_threads(Hosts(others), useful=100) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert connecting.compute_threads(Hosts(others), useful=100) == min(threads, 3)
    assert connecting.compute_threads(Hosts(others), useful=1) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert connecting.compute_threads(Hosts(others), useful=100) == threads


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ("4", 4),
        ("4,2", 4),  # one number for each nested level
        (" 8 , 2", 8),
        ("0", None),
        ("-1", None),
        ("²", None),
        ("many", None),
        ("", None),
    ],
)
def test_a_request_for_threads_is_read_as_openmp_reads_it(given, threads):
    assert launcher.requested_threads({"OMP_NUM_THREADS": given}) == threads
    assert launcher.requested_threads({}) is None


@pytest.mark.parametrize(("given", "times"), [("64,2", 1), ("1", 0), ("", 0)])
def test_a_run_says_once_that_it_uses_fewer_threads(tmp_path, monkeypatch, capfd, given, times):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    run_of(tmp_path / "run")
    assert capfd.readouterr().out.count("(OMP_NUM_THREADS = 64: more are of no use)") == times


def test_a_small_network_gets_no_more_threads_than_it_can_use(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(connecting, "usable_cores", lambda: set(range(16)))
    monkeypatch.setattr(connecting, "cpu_quota", lambda: float("inf"))

    def useful(preset):
        config = PRESETS[preset]()
        envs = make_vector_env(config.env, num_envs=1, episode_seed=lambda copy, number: 0)
        envs.close()
        before = torch.get_rng_state()
        count = useful_threads(config, envs)
        assert torch.equal(torch.get_rng_state(), before), "no random stream is used"
        return count

    assert useful("cartpole") == 1
    assert useful("acrobot") == 2
    assert connecting.compute_threads(Hosts([]), useful=2) == 2


def test_the_exit_code_of_a_rank_survives_the_end_of_the_others():
    """srun kills the other ranks when the first one exits, and uses their codes for the job."""
    program = (
        "import atexit, os, signal, sys\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "from hvd_dqn.commands import cli\n"
        "sys.argv = ['hvd-dqn', 'no-such-command']\n"
        "cli.main()\n"
    )
    told = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    environment = clean_environment() | told
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == 2


def test_the_environment_of_an_mpi_program_that_a_rank_starts():
    environ = {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "2",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_COMM_WORLD_RANK": "3",
        "PMIX_NAMESPACE": "job",
        "PMI_RANK": "3",
        "SLURM_PROCID": "3",
        "WORLD_SIZE": "4",
        INTERFACE: "ib0",
    }
    kept = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    assert launcher.environment_of_programs(environ) == kept


@MULTIRANK
def test_a_rank_can_start_an_mpi_program():
    size = "from mpi4py import MPI; print('a job of', MPI.COMM_WORLD.size)"
    command = [*launcher_command("mpirun", 2), sys.executable, "-c", size]
    code = (
        "import hvd_dqn, subprocess; from mpi4py import MPI\n"
        f"if MPI.COMM_WORLD.rank == 1: subprocess.run({command!r}, check=True,"
        " timeout=60, env=hvd_dqn.environment_of_programs())"
    )
    done = launch(["-c", code], ranks=2)
    assert done.code == 0, done.output
    assert len(done.lines("a job of 2")) == 2
