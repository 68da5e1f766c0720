"""The doctor on one machine; tests/cluster tests it on several ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hvd_dqn.commands.cli import run
from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.horovod import nccl_can
from hvd_dqn.tools import probe
from hvd_dqn.tools.doctor import checks as doctor


@pytest.mark.multirank
def test_all_checks_pass_here(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    checks = doctor.diagnose()
    checks.append(doctor.two_ranks(checks))
    assert [check for check in checks if check.state == "fail"] == []
    assert {"torch", "MPI", "Horovod", "two ranks", "GPU", "threads"} <= {c.name for c in checks}


def test_the_doctor_gives_reason_and_remedy(monkeypatch):
    def broken():
        raise UserError("Horovod does not load (a: b)", "hvd-dqn build-horovod")

    monkeypatch.setattr(doctor, "load_horovod", broken)
    checks = doctor.diagnose()
    checks.append(doctor.two_ranks(checks))
    failed = [check for check in checks if check.state == "fail"]
    assert [check.name for check in failed] == ["Horovod", "two ranks"]
    assert failed[0].found == "Horovod does not load (a: b)"
    assert failed[0].remedy == "hvd-dqn build-horovod"


def test_libraries_that_the_backend_does_not_need_may_be_missing(monkeypatch, capsys):
    def missing():
        raise UserError("Horovod is not installed", "hvd-dqn build-horovod")

    monkeypatch.setattr(doctor, "load_horovod", missing)
    assert run(["doctor", "--backend", "mpi"]) == 0
    assert "two ranks" not in capsys.readouterr().out
    assert run(["doctor"]) == 1


def test_a_node_with_too_few_gpus_fails(capsys):
    assert run(["doctor", "--node", "--backend", "local", "--gpus", "99"]) == 1
    assert f"GPUs: {torch.cuda.device_count()} of 99 found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gpus", "can"),
    [
        (["a:0", "a:1", "b:0"], True),
        (["a:0", "a:0"], False),
        (["a:0", None], False),
        ([None], False),
    ],
)
def test_nccl_joins_ranks_with_a_gpu_each(gpus, can):
    assert nccl_can(gpus) is can


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("PROBLEMthe reason\nValueError: x", "the reason"),
        ("noise\nValueError: x\n-----\nmpirun gave up", "ValueError: x"),
        ("noise\nmpirun: not enough slots\n------\n", "mpirun: not enough slots"),
        ("", "no output"),
    ],
)
def test_the_reason_of_a_rank_is_preferred_to_the_launchers(output, reason):
    assert probe._reason(output.replace("PROBLEM", probe._PROBLEM)) == reason


def test_the_probe_has_its_own_session_directory(monkeypatch):
    sessions = "PRTE_MCA_prte_local_tmpdir_base"
    for name in (sessions, "PRTE_MCA_prte_tmpdir_base"):
        monkeypatch.delenv(name, raising=False)
    places = []

    def run(command, environment):
        places.append(Path(environment[sessions]))
        assert places[-1].is_dir()
        return 1, "Error: no network"

    monkeypatch.setattr(probe, "_run", run)
    monkeypatch.setattr(probe.shutil, "which", lambda name, path=None: "/opt/mpirun")
    with pytest.raises(UserError, match="no network"):
        probe.probe_two_ranks()
    assert not places[0].exists()


def test_the_libraries_of_any_mpi_are_found(monkeypatch, tmp_path):
    mapped = {
        "/usr/lib/libmpich.so.12.2.2": True,
        "/opt/cray/libmpi_gnu_91.so.12": True,
        "/opt/intel/libmpi.so.12.0.0": True,
        "/opt/ompi/libmpi.so.40": True,
        "/opt/ompi/libmpi_mpifh.so.40": False,
        "/opt/ompi/libmpi_cxx.so.40": False,
        "/usr/lib/libmpifort.so.12": False,
        "/usr/lib/libmpicxx.so.12": False,
        "/usr/lib/libmpi.json": False,
    }
    table = tmp_path / "maps"
    table.write_text("".join(f"7f00-7f01 r-xp 0 08:01 1 {file}\n" for file in mapped))
    monkeypatch.setattr(probe, "_MAPPED", table)
    assert probe.loaded_mpi_libraries() == sorted(file for file, is_mpi in mapped.items() if is_mpi)


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4\x00", "Open MPI v4.1.4"),
        ("MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr 7, 2022\n", "MPICH Version: 4.0.2"),
        ("Intel(R) MPI Library 2021.14\n", "Intel(R) MPI Library 2021.14"),
    ],
)
def test_the_version_of_an_mpi_is_one_line(monkeypatch, told, version):
    from mpi4py import MPI

    monkeypatch.setattr(MPI, "Get_library_version", lambda: told)
    assert probe.mpi_library_version() == version


def test_without_an_mpirun_one_process_loads_horovod(monkeypatch):
    """As on a Cray or a login node, where MPI must not start either."""
    commands = []

    def run(command, environment):
        commands.append(command)
        told = {"mpi_library": "MPICH", "libmpi": ["a"], "nccl": False, "milliseconds": None}
        return 0, f"noise\n{probe._MARK}{json.dumps(told)}\n"

    monkeypatch.setattr(probe, "_run", run)
    monkeypatch.setattr(probe.shutil, "which", lambda name, path=None: None)
    check = doctor.two_ranks([])
    assert (check.state, check.found) == ("warn", probe.NOT_TRIED)
    assert "srun" in check.remedy
    assert commands == [[sys.executable, "-m", "hvd_dqn.tools.probe", "alone"]]


@pytest.mark.parametrize("between", ["\n", "", "[1,1]<stdout>:"])
def test_reports_of_two_ranks_on_one_line_are_read(monkeypatch, between):
    """As Open MPI 4 prints them at times."""
    told = {"mpi_library": "MPI", "libmpi": ["a"], "nccl": False, "milliseconds": 0.5}
    report = f"{probe._MARK}{json.dumps(told)}"
    output = f"[1,0]<stdout>:{report}{between}{report}\n\n"
    monkeypatch.setattr(probe, "_run", lambda command, environment: (0, output))
    monkeypatch.setattr(probe.shutil, "which", lambda name, path=None: "/opt/mpirun")
    assert doctor.two_ranks([]).state == "ok"


@pytest.mark.multirank
def test_loading_horovod_does_not_start_mpi():
    program = (
        "from hvd_dqn.tools.probe import _loaded\n"
        "libraries = len(_loaded()['libmpi'])\n"
        "from mpi4py import MPI\n"
        "print(libraries, MPI.Is_initialized())\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == "1 False\n"
