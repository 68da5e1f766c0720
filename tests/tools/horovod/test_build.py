"""Whether Horovod is kept or built, and what is built. Every test run's set-up builds for real."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.tools.horovod import build
from hvd_dqn.tools.horovod.recipe import RECORD, current_recipe, installed_recipe
from hvd_dqn.tools.probe import probe_two_ranks


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a package `horovod` with this metadata.json before the real one. Checks
    of whether it works pass.
    """

    def write(text):
        package = tmp_path / "horovod"
        package.mkdir()
        (package / "__init__.py").write_text("")
        if text is not None:
            (package / "metadata.json").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "horovod", raising=False)

    monkeypatch.setattr(build, "load_horovod", lambda: None)
    monkeypatch.setattr(build, "check_horovod", lambda: None)
    return write


def said_before_building(monkeypatch, capsys):
    """The lines of a command that stops where it would build."""

    def stop():
        raise UserError("building")

    monkeypatch.setattr(build, "find_toolchain", stop)
    with pytest.raises(UserError, match="building"):
        build.build_horovod(force=False)
    return capsys.readouterr().out.splitlines()


def test_an_up_to_date_horovod_is_kept(install, capsys):
    install(json.dumps({"pytorch": "2", RECORD: current_recipe()._asdict()}))
    build.build_horovod(force=False)
    assert capsys.readouterr().out == "Horovod works and is up to date: kept\n"


@pytest.mark.parametrize("text", [None, "", "[]", '{"pytorch": "2.13.0", "dummy": "none"}'])
def test_a_horovod_from_elsewhere_that_works_is_kept(install, capsys, text):
    install(text)
    build.build_horovod(force=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert "comes from elsewhere and works: kept" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patches": "old"}, "patches"),
        ({"torch": "2.12.0"}, "torch version"),
        ({"mpi": "MPICH 4", "python": "cp310"}, "MPI and Python version"),
        ({"options": {}}, "build options"),
    ],
)
def test_one_line_says_what_changed(install, monkeypatch, capsys, changes, words):
    install(json.dumps({RECORD: current_recipe()._asdict() | changes}))
    said = said_before_building(monkeypatch, capsys)
    assert said == [f"Horovod is rebuilt: its {words} changed"]


def test_an_option_that_the_user_sets_is_part_of_the_recipe(monkeypatch):
    before = current_recipe()
    monkeypatch.setenv("HOROVOD_WITHOUT_GLOO", "0")
    assert current_recipe().differences(before._asdict()) == ["build options"]


def test_one_line_says_why_a_horovod_that_does_not_work_is_replaced(monkeypatch, capsys):
    def fails():
        raise UserError("two ranks could not sum a tensor (no network)")

    monkeypatch.setattr(build, "installed_recipe", lambda: None)
    monkeypatch.setattr(build, "load_horovod", lambda: None)
    monkeypatch.setattr(build, "check_horovod", fails)
    said = said_before_building(monkeypatch, capsys)
    assert said == ["Horovod is built: two ranks could not sum a tensor (no network)"]


@pytest.mark.multirank
def test_the_real_horovod_is_kept(capsys):
    build.build_horovod(force=False)
    assert "kept" in capsys.readouterr().out


@pytest.mark.multirank
def test_our_build_records_its_recipe():
    recorded = installed_recipe()
    if recorded is None:
        pytest.skip("this Horovod comes from elsewhere")
    assert current_recipe().differences(recorded) == []
    files = metadata.files("horovod")
    assert any(str(file) == "horovod/metadata.json" for file in files), "removed with the package"


@pytest.mark.multirank
def test_the_built_library_finds_others_relative_to_its_own_place(tmp_path, monkeypatch):
    import horovod

    (tmp_path / "hvd_dqn").mkdir()  # sources beside an installed package, without compiled parts
    monkeypatch.chdir(tmp_path)

    library = next(Path(horovod.__file__).parent.glob("torch/mpi_lib_v2*.so")).read_bytes()
    assert b"$ORIGIN/../../torch/lib" in library
    result = probe_two_ranks()
    assert len(result.libmpi) == 1
    assert result.milliseconds > 0
