"""What can be tested of the build without building; every test run's set-up builds for real."""

from pathlib import Path

import pytest
from packaging.version import Version

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.horovod import OVERLAPPED
from hvd_dqn.tools.horovod import build as build_horovod
from hvd_dqn.tools.horovod.patches import apply_patches, cxx_standard
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
        apply_patches(
            tmp_path, torch_version=Version("2.13"), with_cuda=False, extra_library_dirs=[]
        )


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
        toolchain._replace(compute_capabilities="90").key(),
    }
    assert len(keys) == 6
    assert toolchain.torch in toolchain.key()


@pytest.mark.multirank
def test_a_horovod_that_works_is_kept(capsys):
    build_horovod.build_horovod(force=False)
    assert "kept" in capsys.readouterr().out


def test_why_the_horovod_that_is_here_is_not_kept(capsys, monkeypatch):
    def fails() -> None:
        raise UserError("two ranks could not sum a tensor (no network)")

    monkeypatch.setattr(build_horovod, "check_horovod", fails)
    monkeypatch.setattr(build_horovod, "find_toolchain", fails)
    with pytest.raises(UserError):
        build_horovod.build_horovod(force=False)
    assert "two ranks could not sum a tensor (no network)" in capsys.readouterr().out


@pytest.mark.multirank
def test_the_built_library_finds_what_it_needs_from_its_own_place(tmp_path, monkeypatch):
    import horovod

    (tmp_path / "hvd_dqn").mkdir()  # sources beside an installed package, without what is compiled
    monkeypatch.chdir(tmp_path)

    library = next(Path(horovod.__file__).parent.glob("torch/mpi_lib_v2*.so")).read_bytes()
    assert b"$ORIGIN/../../torch/lib" in library
    assert OVERLAPPED.encode() in library, "it knows the sums that are looked after asleep"
    result = probe_two_ranks()
    assert len(result.libmpi) == 1
    assert result.milliseconds > 0


@pytest.fixture
def toolkits(tmp_path, monkeypatch):
    """CUDA toolkits 12.4 and 13.0 with an nvcc each, and none that the machine has."""

    def make(version):
        home = tmp_path / version
        (home / "bin").mkdir(parents=True)
        (home / "include").mkdir()
        (home / "include" / "cuda.h").write_text("")
        nvcc = home / "bin" / "nvcc"
        nvcc.write_text(
            f"#!/bin/sh\necho Cuda compilation tools, release {version}, V{version}.1\n"
        )
        nvcc.chmod(0o755)
        return home

    for name in ("CUDA_HOME", "CUDA_PATH", "HOROVOD_NCCL_HOME"):
        monkeypatch.delenv(name, raising=False)
    homes = [make("12.4"), make("13.0")]
    monkeypatch.setattr(build_horovod, "_cuda_homes", lambda: homes)
    monkeypatch.setattr(build_horovod, "_pip_nccl", lambda: [str(homes[1] / "nccl")])
    return homes


def test_the_toolkit_of_torchs_cuda_is_taken(toolkits):
    assert build_horovod._find_cuda(None) == (None, None, "")
    assert build_horovod._find_cuda("12.8")[0] == toolkits[0]
    (toolkits[1] / "nccl" / "include").mkdir(parents=True)
    (toolkits[1] / "nccl" / "include" / "nccl.h").write_text("")
    assert build_horovod._find_cuda("13.0") == (toolkits[1], toolkits[1] / "nccl", "")


def test_without_torchs_toolkit_the_build_goes_on_through_the_host(toolkits):
    home, nccl, warning = build_horovod._find_cuda("14.1")
    assert (home, nccl) == (None, None)
    for word in ("14.1", "12.4", "13.0", "through the host", "CUDA_HOME"):
        assert word in warning


def test_makes_own_flags_do_not_reach_the_build(monkeypatch, tmp_path):
    monkeypatch.setenv("MAKEFLAGS", "s -- RANKS=4")
    monkeypatch.setenv("HOROVOD_WITHOUT_GLOO", "0")
    environment = build_horovod._build_environment(build_horovod.find_toolchain(), tmp_path)
    assert environment["MAKEFLAGS"].startswith("-j")
    assert "RANKS" not in environment["MAKEFLAGS"]
    assert environment["HOROVOD_WITHOUT_GLOO"] == "0", "what the user set stays"
