"""What memory is left, read from files laid out as Linux does; and a replay that is too large."""

from contextlib import nullcontext

import pytest
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.memory import available_bytes
from hvd_dqn.config import Config
from hvd_dqn.envs import make_vector_env
from hvd_dqn.presets import PRESETS
from hvd_dqn.run import requirements

CPU = torch.device("cpu")


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal:  100 kB\nMemAvailable:    50 kB\n"}


def test_the_host_alone(tmp_path):
    write(tmp_path, MEMINFO)
    assert available_bytes(tmp_path) == 50 * 1024


def test_the_tightest_control_group_on_the_way_counts(tmp_path):
    group = "sys/fs/cgroup/slurm/job_7"
    write(
        tmp_path,
        MEMINFO
        | {
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            f"{group}/step_0/memory.max": "max\n",
            f"{group}/memory.max": "20000\n",
            f"{group}/memory.current": "9000\n",
            f"{group}/memory.stat": "anon 5000\ninactive_file 4000\n",
            "sys/fs/cgroup/memory.max": "40000\n",
            "sys/fs/cgroup/memory.current": "9000\n",
        },
    )
    assert available_bytes(tmp_path) == 20000 - 9000 + 4000


def test_control_groups_of_version_1(tmp_path):
    group = "sys/fs/cgroup/memory/slurm/job_7"
    no_limit = "9223372036854771712\n"
    write(
        tmp_path,
        MEMINFO
        | {
            "proc/self/cgroup": "11:cpu,cpuacct:/other\n4:memory:/slurm/job_7\n0::/init.scope\n",
            f"{group}/memory.limit_in_bytes": "20000\n",
            f"{group}/memory.usage_in_bytes": "9000\n",
            f"{group}/memory.stat": "inactive_file 1\ntotal_inactive_file 4000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": no_limit,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "99999\n",
        },
    )
    assert available_bytes(tmp_path) == 20000 - 9000 + 4000


def test_nothing_is_known(tmp_path):
    assert available_bytes(tmp_path) is None


def test_this_machine_has_some():
    found = available_bytes()
    assert found is not None
    assert found > 2**20


@pytest.mark.parametrize(("ranks", "fits"), [(1, True), (4, False)])
def test_a_replay_that_does_not_fit_is_refused_with_the_figure(monkeypatch, ranks, fits):
    config = Config().changed(
        {
            "env.id": "MinAtar/Breakout-v1",
            "env.num_envs": 2,
            "replay.capacity": 1_000_000,
            "replay.sampling": "prioritized",
        }
    )
    envs = make_vector_env(config.env, num_envs=2, episode_seed=lambda copy, number: 0)
    frames, tree = requirements.replay_bytes(config, envs)
    assert frames == pytest.approx(1e6 * (400 + 9), rel=1e-3)
    assert 16e6 < tree < 32e6
    monkeypatch.setattr(requirements, "available_bytes", lambda: 1_000_000_000)
    if fits:
        requirements.require_memory(config, envs, CPU, ranks_on_host=ranks, ranks_on_gpu=ranks)
    else:
        with pytest.raises(UserError) as caught:
            requirements.require_memory(config, envs, CPU, ranks_on_host=ranks, ranks_on_gpu=ranks)
        message = str(caught.value)
        for words in ("replay.capacity = 1000000", "1.7 GB", "4 ranks", "1.0 GB are free"):
            assert words in message
    envs.close()


@pytest.mark.parametrize(("sharing", "fits"), [(2, True), (3, False)])
@pytest.mark.parametrize("setting", ["replay.capacity", "rollout.steps"])
def test_ranks_of_one_gpu_share_its_memory(monkeypatch, sharing, fits, setting):
    config = Config().changed({"replay.capacity": 10_000, "replay.storage": "device"})
    if setting == "rollout.steps":
        config = PRESETS["cartpole-pqn"]()
    envs = make_vector_env(config.env, num_envs=1, episode_seed=lambda copy, number: 0)
    frames, _ = requirements.replay_bytes(config, envs)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(2.5 * frames), 0))
    there = {"ranks_on_host": 8, "ranks_on_gpu": sharing}
    with (
        nullcontext()
        if fits
        else pytest.raises(UserError, match=f"{setting} = .* of cuda:0 for 3 ranks")
    ):
        requirements.require_memory(config, envs, torch.device("cuda:0"), **there)
    envs.close()
