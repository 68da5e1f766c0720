"""Run the examples as they are written, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

from examples.inventory import Inventory
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
