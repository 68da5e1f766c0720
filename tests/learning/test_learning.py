"""Does it learn? In seconds where an error would show at once, and the main job itself."""

import dataclasses
import re

import pytest

from hvd_dqn.config import (
    DistributedConfig,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ReplayConfig,
)
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.presets import PRESETS
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_identity_environment_is_learned_in_seconds(tmp_path, double, n_step):
    config = small_config(
        env=EnvConfig(id="tests.envs.toy:ToyIdentity-v0", num_envs=4),
        replay=ReplayConfig(capacity=2000, batch_size=32, n_step=n_step),
        objective=ObjectiveConfig(gamma=0.5, double=double),
        exploration=ExplorationConfig(epsilon_final=0.1, epsilon_decay_env_steps=1500),
        evaluation=EvaluationConfig(period_env_steps=1200, episodes=4, final_episodes=10),
    )
    one_thread = DistributedConfig(threads_per_rank=1)
    config = dataclasses.replace(config, total_env_steps=3600, distributed=one_thread)
    summary = train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert summary.progress.updates > 800
    assert summary.last_mean >= 19, "of 20, by the network at the end, not the best one"


def test_every_part_of_the_network_and_optimizer_learns_together(tmp_path):
    config = small_config(
        env=EnvConfig(id="tests.envs.toy:ToyIdentity-v0", num_envs=4),
        network=NetworkConfig(hidden_sizes=(32, 32), dueling=True, layer_norm=True),
        optimizer=OptimizerConfig(name="adamw", weight_decay=0.01),
        objective=ObjectiveConfig(gamma=0.5),
        exploration=ExplorationConfig(
            epsilon_final=0.1, epsilon_decay_env_steps=1500, zeta_exponent=2.0
        ),
        evaluation=EvaluationConfig(period_env_steps=1200, episodes=4, final_episodes=10),
    )
    one_thread = DistributedConfig(threads_per_rank=1)
    config = dataclasses.replace(config, total_env_steps=3600, distributed=one_thread)
    summary = train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert summary.last_mean >= 19


def test_rollouts_balance_the_pole_within_twenty_seconds(tmp_path):
    config = PRESETS["cartpole-pqn"]().changed(
        {
            "total_env_steps": 150_000,
            "exploration.epsilon_decay_env_steps": 60_000,
            "evaluation.episodes": 5,
            "evaluation.final_episodes": 20,
            "logging.loggers": (),
            "distributed.threads_per_rank": 1,
        }
    )
    summary = train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert summary.score.mean >= 475


@pytest.mark.multirank
def test_the_main_job_balances_the_pole_on_two_ranks(tmp_path):
    done = hvd_dqn("train", "cartpole", "--run-dir", str(tmp_path / "run"), ranks=2, timeout=400)
    assert done.code == 0, done.output
    (line,) = done.lines("greedy episodes ·")
    mean = float(re.search(r"return ([\d.]+) ±", line).group(1))
    assert mean >= 475
    assert "over 100 greedy episodes" in line
