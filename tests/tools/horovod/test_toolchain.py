"""What Horovod is built against, without building."""

from pathlib import Path

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.tools.horovod import toolchain as horovod_toolchain
from hvd_dqn.tools.horovod.toolchain import build_environment, find_toolchain


def test_everything_missing_is_named_at_once(monkeypatch):
    monkeypatch.setattr(horovod_toolchain.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(horovod_toolchain.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setattr(horovod_toolchain, "_is_installed", lambda name: name != "cmake")
    with pytest.raises(UserError) as caught:
        find_toolchain()
    named = ("g++", "make (", "patch or git (", "python3-dev", "libopenmpi-dev", "hvd_dqn[horovod]")
    for word in named:
        assert word in str(caught.value)
    assert "cmake" in str(caught.value)


def test_the_cache_key_depends_on_everything_a_wheel_depends_on():
    toolchain = find_toolchain()
    recipe = toolchain.recipe
    keys = {
        toolchain.key(),
        toolchain._replace(recipe=recipe._replace(patches="other")).key(),
        toolchain._replace(recipe=recipe._replace(options={"HOROVOD_WITH_MPI": "1"})).key(),
        toolchain._replace(recipe=recipe._replace(torch="9.9")).key(),
        toolchain._replace(recipe=recipe._replace(mpi="MPICH 5")).key(),
        toolchain._replace(recipe=recipe._replace(python="cp399")).key(),
        toolchain._replace(mpi_lib_dir=Path("/opt/mpi/lib")).key(),
        toolchain._replace(compute_capabilities="90").key(),
    }
    assert len(keys) == 8
    assert recipe.torch in toolchain.key()


@pytest.fixture
def toolkits(tmp_path, monkeypatch):
    """CUDA toolkits 12.4 and 13.0 with an nvcc each, and none of this machine."""

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
    monkeypatch.setattr(horovod_toolchain, "_cuda_homes", lambda: homes)
    monkeypatch.setattr(horovod_toolchain, "_pip_nccl", lambda: [str(homes[1] / "nccl")])
    return homes


def test_the_toolkit_of_torchs_cuda_is_chosen(toolkits):
    assert horovod_toolchain._find_cuda(None) == (None, None, "")
    assert horovod_toolchain._find_cuda("12.8")[0] == toolkits[0]
    (toolkits[1] / "nccl" / "include").mkdir(parents=True)
    (toolkits[1] / "nccl" / "include" / "nccl.h").write_text("")
    assert horovod_toolchain._find_cuda("13.0") == (toolkits[1], toolkits[1] / "nccl", "")


def test_without_torchs_toolkit_gpu_tensors_travel_through_the_host(toolkits):
    home, nccl, warning = horovod_toolchain._find_cuda("14.1")
    assert (home, nccl) == (None, None)
    for word in ("14.1", "12.4", "13.0", "through the host", "CUDA_HOME"):
        assert word in warning


def test_the_flags_of_a_surrounding_make_do_not_reach_the_build(monkeypatch, tmp_path):
    monkeypatch.setenv("MAKEFLAGS", "s -- RANKS=4")
    monkeypatch.setenv("HOROVOD_WITHOUT_GLOO", "0")
    environment = build_environment(find_toolchain(), tmp_path)
    assert environment["MAKEFLAGS"].startswith("-j")
    assert "RANKS" not in environment["MAKEFLAGS"]
    assert environment["HOROVOD_WITHOUT_GLOO"] == "0", "the user's value wins"
