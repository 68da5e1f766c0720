"""Every kind of environment on the page "Environments" trains by its id, without a preset."""

import json
from pathlib import Path

import pytest

from hvd_dqn.commands.cli import run

PAGE = Path(__file__).parents[2] / "docs/environments.md"
SHORT = {
    "total-env-steps": 400,
    "learning-starts-env-steps": 100,
    "logging.period-env-steps": 200,
    "evaluation.period-env-steps": 400,
    "evaluation.episodes": 1,
    "evaluation.final-episodes": 1,
    "evaluation.max-episode-steps": 50,
    "replay.capacity": 2000,
    "replay.batch-size": 8,
    "updates-per-iteration": 1,
    "network.hidden-sizes": 16,
}


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("gymnasium", "CartPole-v1"),
        ("gymnasium", "CartPole-v1 --env.vectorization vector"),
        ("gymnasium", "FrozenLake-v1 --env.kwargs.is_slippery false"),
        ("gymnasium", "CliffWalking-v1"),
        ("gymnasium", "Blackjack-v1"),
        ("gymnasium", "Taxi-v4"),
        ("gymnasium", "Taxi-v4 --env.action-mask info"),
        ("gymnasium", "Pendulum-v1"),
        ("Box2D", "LunarLander-v3"),
        ("Box2D", "LunarLander-v3 --env.kwargs.continuous true"),
        ("mujoco", "HalfCheetah-v5"),
        ("minigrid", "MiniGrid-Empty-5x5-v0"),
        ("minigrid", "MiniGrid-DoorKey-5x5-v0 --env.text tokens"),
        ("ale_py", "ALE/Pong-v5 --env.frame-stack 4"),
        ("minatar", "MinAtar/Breakout-v1"),
        ("highway_env", "highway-fast-v0 --env.num-envs 2 --total-env-steps 150"),
        ("envpool", "envpool:Pong-v5 --env.frame-stack 4"),
        ("gymnax", "gymnax:Breakout-MinAtar"),
        ("jumanji", "jumanji:Snake-v1"),
        ("gymnasium", "examples.inventory:Inventory-v0"),
    ],
)
def test_it_trains_by_its_id(tmp_path, package, words):
    pytest.importorskip(package)
    env_id, *options = words.split()
    assert f"`{env_id}" in PAGE.read_text(), "the page names it"
    run_dir = tmp_path / "run"
    short = [f"--{name}={value}" for name, value in SHORT.items()]
    assert run(["train", "--env.id", env_id, *short, *options, "--run-dir", str(run_dir)]) == 0
    final = json.loads((run_dir / "final.json").read_text())
    assert final["env_steps"] >= 150
    assert final["updates"] > 0
