import shutil
import subprocess
import sys

import peers
import pytest

from hvd_dqn.common.errors import RunError, UserError
from tests.benchmarks import BENCHMARKS


def python_with(place, *distributions):
    """A Python that has these distributions and nothing else."""
    site = place / "site"
    for name in distributions:
        info = site / f"{name}.dist-info"
        info.mkdir(parents=True)
        distribution, _, version = name.rpartition("-")
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
    return script(place / "python", f'PYTHONPATH={site} exec {sys.executable} -S "$@"')


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_missing_library_is_reported_in_one_line(tmp_path, capsys):
    python = python_with(tmp_path, "tianshou-2.0.1", "cpprb-11.0.0")
    found = peers.installed(python, ["Tianshou", "TorchRL", "cpprb"])
    assert found == {"Tianshou": "2.0.1", "cpprb": "11.0.0"}
    assert capsys.readouterr().err.splitlines() == [
        f"bench: TorchRL is left out: torchrl is not installed for {python}"
    ]


def test_a_python_without_any_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of Tianshou, TorchRL: run make peers"):
        peers.installed(python_with(tmp_path), ["Tianshou", "TorchRL"])
    with pytest.raises(UserError, match="run make peers"):
        peers.installed(tmp_path / "nowhere", ["Tianshou"])


def test_a_script_that_fails_is_named_with_its_last_line(tmp_path):
    failing = tmp_path / "failing.py"
    failing.write_text("raise ValueError('no such game')")
    with pytest.raises(RunError, match=r"failing\.py failed .* 1: ValueError: no such game"):
        peers.run_script(sys.executable, [str(failing)])


def test_make_peers_leaves_out_what_cannot_be_installed(tmp_path):
    shutil.copy(BENCHMARKS.parent / "Makefile", tmp_path)
    pip = script(
        tmp_path / "pip",
        'case "$*" in *tianshou*) echo "ERROR: no matching distribution" >&2; exit 1;; esac\n'
        'echo "$*" >> installed',
    )
    python = script(tmp_path / "python", f'mkdir -p "$3/bin" && cp {pip} "$3/bin/python"')
    done = subprocess.run(
        ["make", "--old-file", ".venv/.ready", "peers", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("left out")]
    log = ".venv-peers/tianshou.log"
    assert said == [f"left out: tianshou==2.0.1 could not be installed (see {log})"]
    assert "no matching distribution" in (tmp_path / log).read_text()
    last = [line.split()[-1] for line in (tmp_path / "installed").read_text().splitlines()]
    assert [name.partition("==")[0] for name in last] == [
        *("torch", "stable-baselines3", "sb3-contrib", "minatar", "torchrl", "cpprb")
    ]
