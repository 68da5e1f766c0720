"""Whether Horovod is kept or built, and what is built. Every test run's set-up builds for real."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from hvd_dqn.commands.cli import run
from hvd_dqn.common.errors import UserError
from hvd_dqn.tools.horovod import build
from hvd_dqn.tools.horovod.recipe import RECORD, current_recipe, installed_recipe
from hvd_dqn.tools.probe import ProbeResult, probe_two_ranks

WORKS = ProbeResult("Open MPI", ["/opt/libmpi.so"], nccl=False, milliseconds=1.0)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a package `horovod` with this metadata.json before the real one. Checks
    of whether it works pass. This machine has no GPU.
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
    monkeypatch.setattr(build, "check_horovod", lambda: WORKS)
    monkeypatch.setattr("torch.version.cuda", None)
    return write


def said_before_building(monkeypatch, capsys, cuda=None):
    """The lines of a command that stops where it would build."""

    def stop(choice):
        raise UserError("building")

    monkeypatch.setattr(build, "find_toolchain", stop)
    with pytest.raises(UserError, match="building"):
        build.build_horovod(force=False, cuda=cuda)
    return capsys.readouterr().out.splitlines()


def test_an_up_to_date_horovod_is_kept(install, capsys):
    install(json.dumps({"pytorch": "2", RECORD: current_recipe()._asdict()}))
    build.build_horovod(force=False)
    assert capsys.readouterr().out == "Horovod works and is up to date: kept\n"


@pytest.mark.parametrize(
    ("installed", "option", "rebuilt"),
    [
        ((False, False), None, False),
        ((False, True), False, False),
        ((True, False), False, True),
        ((False, False), True, True),
        ((False, True), True, True),
        ((True, True), None, False),
    ],
)
def test_a_changed_choice_of_cuda_rebuilds(
    install, monkeypatch, capsys, installed, option, rebuilt
):
    cuda, asked = installed
    recipe = current_recipe()._asdict() | {"cuda": cuda, "cuda_asked": asked}
    install(json.dumps({RECORD: recipe}))
    if rebuilt:
        said = said_before_building(monkeypatch, capsys, option)
        assert said == ["Horovod is rebuilt: its choice of CUDA changed"]
    else:
        build.build_horovod(force=False, cuda=option)
        assert "kept" in capsys.readouterr().out


def test_where_ranks_cannot_start_one_line_says_what_was_not_tried(install, monkeypatch, capsys):
    install(json.dumps({RECORD: current_recipe()._asdict()}))
    alone = WORKS._replace(milliseconds=None)
    monkeypatch.setattr(build, "check_horovod", lambda: alone)
    build.build_horovod(force=False)
    kept, untried = capsys.readouterr().out.splitlines()
    assert "kept" in kept
    assert "two ranks were not tried, because there is no mpirun here" in untried
    assert "srun -n 2 hvd-dqn doctor" in untried


def test_the_options_of_cuda_exclude_each_other(capsys):
    assert run(["build-horovod", "--cuda", "--no-cuda"]) == 2
    assert "exclude each other" in capsys.readouterr().err


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


@pytest.mark.parametrize("home", ["/proc/none", "/dev/full", None])
def test_a_home_that_takes_no_wheel_is_replaced(monkeypatch, tmp_path, capsys, home):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = None if home is None else Path(home) / "hvd_dqn"
    place = build._place_for_a_wheel(cache, Console(soft_wrap=True))
    assert place.parent == tmp_path
    assert place.is_dir()
    assert f"note: {place} replaces the cache" in capsys.readouterr().out


def test_wheels_are_cached_in_the_home_if_there_is_one(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = build._cache_of("a-key")
    assert cache is not None
    assert cache.is_relative_to(tmp_path)
    assert build._place_for_a_wheel(cache, Console()) == cache
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(Path, "home", lambda: Path("~x").expanduser())  # a user without a home
    assert build._cache_of("a-key") is None
