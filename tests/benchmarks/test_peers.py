import sys

import peers
import pytest

from hvd_dqn.common.errors import RunError, UserError


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
