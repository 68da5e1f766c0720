"""The examples, as they stand, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from examples.inventory import Inventory
from tests.launching import clean_environment, hvd_dqn, launch

ROOT = Path(__file__).parents[1]


def test_the_inventory_is_an_environment():
    check_env(Inventory(), skip_render_check=True)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.multirank)])
def test_the_inventory(tmp_path, ranks):
    launcher = "none" if ranks == 1 else "horovodrun"
    script = str(ROOT / "examples/inventory.py")
    done = launch([script, "3000"], ranks=ranks, launcher=launcher, cwd=tmp_path)
    assert done.code == 0, done.output
    assert len(done.lines("on the shelf")) == 4 * ranks
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "run.json").read_text())["world_size"] == ranks


def test_a_network_of_ones_own_drives_and_is_filmed(tmp_path):
    run_dir, video = tmp_path / "run", tmp_path / "highway.gif"
    done = hvd_dqn(
        *("train", "highway", "--network.torso", "examples.attention_torso:torso"),
        *("--total_env_steps", "120", "--learning_starts_env_steps", "60", "--env.num_envs", "2"),
        *("--evaluation.episodes", "1", "--evaluation.final_episodes", "1"),
        *("--run-dir", str(run_dir)),
        launcher="none",
        cwd=ROOT,
    )
    assert done.code == 0, done.output
    done = hvd_dqn("play", str(run_dir), "--video", str(video), "--fps", "5",
                   launcher="none", cwd=ROOT)  # fmt: skip
    assert done.code == 0, done.output
    with Image.open(video) as film:
        assert film.n_frames >= 1


def test_a_task_of_the_sweep(tmp_path):
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "hvd-dqn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hvd_dqn "$@"\n')
    command.chmod(0o755)
    environment = clean_environment(SLURM_ARRAY_TASK_ID="4", PYTHONPATH=str(ROOT))
    environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"
    words = ["cartpole", "--total_env_steps", "1500", "--evaluation.final_episodes", "2"]
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
