"""What can be tested of the build without building; every test run's set-up builds for real."""

import sys
from pathlib import Path

import pytest
from packaging.version import Version

from hvd_dqn.errors import UserError
from hvd_dqn.tools import build_horovod, doctor
from hvd_dqn.tools.horovod_patches import apply_patches, cxx_standard
from hvd_dqn.tools.probe import probe_two_ranks


@pytest.mark.parametrize(
    ("torch", "standard"),
    [("2.0.1", 14), ("2.1.0", 17), ("2.13.0+cpu", 17), ("2.14.0", 20), ("3.0.0.dev1", 20)],
)
def test_the_standard_that_torch_asks_for(torch, standard):
    assert cxx_standard(Version(torch)) == standard


def test_patches_refuse_another_horovod(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text("set(CMAKE_CXX_STANDARD 23)\n")
    with pytest.raises(UserError, match=r"not Horovod 0\.28\.1's"):
        apply_patches(tmp_path, torch_version=Version("2.13"), extra_library_dirs=[])


def test_everything_missing_is_named_at_once(monkeypatch):
    monkeypatch.setattr(build_horovod.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(build_horovod.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setattr(build_horovod, "_installed", lambda name: name != "cmake")
    with pytest.raises(UserError) as caught:
        build_horovod.find_toolchain()
    for word in ("g++", "make", "python3-dev", "libopenmpi-dev", "hvd_dqn[horovod]", "cmake"):
        assert word in str(caught.value)


def test_a_wheel_is_kept_by_everything_it_depends_on():
    toolchain = build_horovod.find_toolchain()
    keys = {
        toolchain.key(),
        toolchain._replace(torch="9.9").key(),
        toolchain._replace(mpi="MPICH 5").key(),
        toolchain._replace(mpi_lib_dir=Path("/opt/mpi/lib")).key(),
        toolchain._replace(python="cp399").key(),
    }
    assert len(keys) == 5
    assert toolchain.torch in toolchain.key()


@pytest.mark.multirank
def test_a_horovod_that_works_is_kept(capsys):
    build_horovod.build_horovod(force=False)
    assert "kept" in capsys.readouterr().out


@pytest.mark.multirank
def test_the_built_library_finds_what_it_needs_from_its_own_place():
    import horovod

    library = next(Path(horovod.__file__).parent.glob("torch/mpi_lib_v2*.so")).read_bytes()
    assert b"$ORIGIN/../../torch/lib" in library
    result = probe_two_ranks()
    assert len(result.libmpi) == 1
    assert result.milliseconds > 0


@pytest.mark.multirank
def test_the_doctor_finds_nothing_wrong_here(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    checks = doctor.diagnose()
    assert [check.name for check in checks if check.state != "ok"] == []
    assert {"torch", "MPI", "Horovod", "two ranks", "GPU", "threads"} <= {c.name for c in checks}


def test_the_doctor_gives_reason_and_remedy(monkeypatch):
    def broken():
        raise UserError(
            "Horovod does not load (undefined symbol): build it with: hvd-dqn build-horovod"
        )

    monkeypatch.setattr(doctor, "load_horovod", broken)
    failed = [check for check in doctor.diagnose() if check.state == "fail"]
    assert [check.name for check in failed] == ["Horovod", "two ranks"]
    assert "undefined symbol" in failed[0].found
    assert "hvd-dqn build-horovod" in failed[0].remedy
