"""What Horovod is built against, without building."""

from pathlib import Path

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.tools.horovod import toolchain as horovod_toolchain
from hvd_dqn.tools.horovod.toolchain import (
    CudaChoice,
    build_environment,
    choose_cuda,
    find_cuda,
    find_toolchain,
)

NO_CUDA = CudaChoice(False, False, "a test")
AUTO = CudaChoice(True, False, "a test")
ASKED = CudaChoice(True, True, "--cuda")


def test_everything_missing_is_named_at_once(monkeypatch):
    monkeypatch.setattr(horovod_toolchain.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(horovod_toolchain.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setattr(horovod_toolchain, "_is_installed", lambda name: name != "cmake")
    with pytest.raises(UserError) as caught:
        find_toolchain(NO_CUDA)
    named = ("g++", "make (", "patch or git (", "python3-dev", "libopenmpi-dev", "hvd_dqn[horovod]")
    for word in named:
        assert word in str(caught.value)
    assert "cmake" in str(caught.value)


def test_the_cache_key_depends_on_everything_a_wheel_depends_on():
    toolchain = find_toolchain(NO_CUDA)
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
        toolchain._replace(choice=CudaChoice(False, True, "--no-cuda")).key(),
    }
    assert len(keys) == 9
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


@pytest.mark.parametrize("choice", [AUTO, ASKED])
def test_the_toolkit_of_torchs_cuda_is_chosen(toolkits, monkeypatch, choice):
    monkeypatch.setattr("torch.version.cuda", "12.8")
    assert find_cuda(choice)[0] == toolkits[0]
    (toolkits[1] / "nccl" / "include").mkdir(parents=True)
    (toolkits[1] / "nccl" / "include" / "nccl.h").write_text("")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert find_cuda(choice) == (toolkits[1], toolkits[1] / "nccl", "")
    assert find_cuda(NO_CUDA) == (None, None, "")


def test_without_torchs_toolkit_gpu_tensors_travel_through_the_host(toolkits, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "14.1")
    home, nccl, warning = find_cuda(AUTO)
    assert (home, nccl) == (None, None)
    for word in ("14.1", "12.4", "13.0", "through the host", "CUDA_HOME"):
        assert word in warning


@pytest.mark.parametrize("cuda", ["14.1", None])
def test_cuda_that_the_user_asks_for_and_that_is_not_there_is_refused(toolkits, monkeypatch, cuda):
    monkeypatch.setattr("torch.version.cuda", cuda)
    with pytest.raises(UserError, match="CUDA"):
        find_cuda(ASKED)


@pytest.mark.parametrize(
    ("option", "installed", "torchs", "driver", "wanted", "words"),
    [
        (None, None, "13.0", True, True, "has an NVIDIA driver"),
        (None, None, "13.0", False, False, "no NVIDIA driver; --cuda"),
        (None, None, None, True, False, "torch is built without it"),
        (True, None, "13.0", False, True, "--cuda"),
        (False, None, "13.0", True, False, "--no-cuda"),
        # A later set-up without options, on a login node or a GPU node, keeps what was asked for.
        (None, (True, True), "13.0", False, True, "--cuda, as"),
        (None, (False, True), "13.0", True, False, "--no-cuda, as"),
        (None, (True, False), "13.0", False, True, "as the installed"),
        (None, (False, False), "13.0", True, True, "has an NVIDIA driver"),
        (False, (True, True), "13.0", True, False, "--no-cuda"),
    ],
)
def test_option_installation_and_machine_decide_about_cuda(
    monkeypatch, tmp_path, option, installed, torchs, driver, wanted, words
):
    monkeypatch.setattr("torch.version.cuda", torchs)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    place = tmp_path if driver else tmp_path / "nowhere"
    monkeypatch.setattr(horovod_toolchain, "_NVIDIA_DRIVER", (place,))
    recorded = installed and dict(zip(("cuda", "cuda_asked"), installed, strict=True))
    choice = choose_cuda(option, recorded)
    assert choice.wanted is wanted
    assert words in choice.reason
    assert choice.asked is (option is not None or bool(installed and installed[1]))


def test_the_flags_of_a_surrounding_make_do_not_reach_the_build(monkeypatch, tmp_path):
    monkeypatch.setenv("MAKEFLAGS", "s -- RANKS=4")
    monkeypatch.setenv("HOROVOD_WITHOUT_GLOO", "0")
    environment = build_environment(find_toolchain(NO_CUDA), tmp_path)
    assert environment["MAKEFLAGS"].startswith("-j")
    assert "RANKS" not in environment["MAKEFLAGS"]
    assert environment["HOROVOD_WITHOUT_GLOO"] == "0", "the user's value wins"
