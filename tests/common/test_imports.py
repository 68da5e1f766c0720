"""Packages that do not load, and the surroundings they come from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvd_dqn.common.imports import explain, packages_on_python_path
from tests.launching import clean_environment

ROOT = Path(__file__).parents[2]


def module(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("command", ["doctor --backend local", "train cartpole", "evaluate x"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("numpy/__init__.py", "raise ImportError('numpy C-extensions failed')"),
        ("numpy/__init__.py", "import numpy._core_of_another_python"),
        ("numpy.py", "print 'Python 2'"),
        ("numpy.py", "ndarray = undefined"),
    ],
)
def test_another_pythons_package_on_pythonpath_is_named(tmp_path, command, file, text):
    module(tmp_path / "site" / file, text)
    path = f"{tmp_path / 'site'}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "hvd_dqn", *command.split()],
        env=clean_environment(PYTHONPATH=path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    # torch warns besides that it could not load NumPy.
    (line,) = (said for said in done.stderr.splitlines() if said.startswith("hvd-dqn: "))
    assert line.startswith(f"hvd-dqn: numpy comes from PYTHONPATH ({tmp_path / 'site'})")
    assert line.endswith("unset PYTHONPATH, or unload the module that sets it")


def failed_import(name):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # any
        __import__(name)
    return caught.value


def test_a_name_that_a_foreign_package_lacks_is_told(tmp_path, monkeypatch):
    """The module that imports it is this environment's own."""
    module(tmp_path / "foreign" / "extensions_of_typing.py", "")
    module(tmp_path / "own" / "needs_it.py", "from extensions_of_typing import TypeIs")
    for name in ("own", "foreign"):
        monkeypatch.syspath_prepend(tmp_path / name)
    error = failed_import("needs_it")
    monkeypatch.setenv("PYTHONPATH", "")
    assert "PYTHONPATH" not in str(explain(error))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "foreign"))
    assert "extensions_of_typing comes from PYTHONPATH" in str(explain(error))
    assert "extensions_of_typing" in packages_on_python_path()


def test_what_is_missing_or_cannot_be_linked_is_told_and_own_faults_are_not(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "torch_of_cluster" / "__init__.py"
    module(package, "raise ImportError('libcudnn.so.9: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/old")
    text = str(explain(failed_import("torch_of_cluster")))
    assert text == (
        "torch_of_cluster does not load: libcudnn.so.9: cannot open shared object file: check "
        "LD_LIBRARY_PATH"
    )
    assert "has no module 'no_such_package'" in str(explain(failed_import("no_such_package")))
    assert explain(failed_import("hvd_dqn.no_such_module")) is None
    assert explain(ValueError("ours")) is None
