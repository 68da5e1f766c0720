"""Environments that save and load their own state: bit for bit, without a replay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, TimeLimit

from hvd_dqn.common.errors import StoppedError
from hvd_dqn.common.state import pack, snapshot, unpack
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.envs.interface import InterfaceError
from hvd_dqn.envs.saving import can_save, load_env, save_env
from hvd_dqn.envs.simulators import SerialSimulators
from hvd_dqn.envs.vector import VectorEnvironment
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import small_config
from tests.run.test_resume import StopAfter


class Secret(gym.Env):
    """Starts with a number that no seed gives, and multiplies it; nobody can replay it."""

    observation_space = gym.spaces.Box(0, 2**31, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=12):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.number, self.steps = int.from_bytes(os.urandom(2), "big"), 0
        return self._obs(), {}

    def step(self, action):
        self.number = (171 * self.number + int(action) + 1) % 30269
        self.steps += 1
        return self._obs(), self.number / 30269, False, self.steps >= self.length, {}

    def save(self, path):
        Path(path, "number.json").write_text(json.dumps([self.number, self.steps]))

    def load(self, path):
        self.number, self.steps = json.loads(Path(path, "number.json").read_text())

    def _obs(self):
        return np.array([self.number, self.steps], np.float64)


class Predictable(Secret):
    """The same, from a seed."""

    def reset(self, *, seed=None, options=None):
        super().reset()
        self.number = seed % 65536
        return self._obs(), {}


def vector(length=12, limit=None):
    def make():
        env = Secret(length)
        return env if limit is None else TimeLimit(env, limit)

    return VectorEnvironment(
        SerialSimulators([make(), make()]), episode_seed=lambda copy, number: 10 * copy + number
    )


def test_episodes_continue_from_the_saved_state():
    envs = vector()
    envs.reset()
    for _ in range(5):
        envs.step(np.array([0, 1]))
    state = unpack(pack(snapshot(envs.state_dict())))
    expected = [envs.step(np.array([1, 1])).next_obs for _ in range(7)]
    other = vector()
    other.reset()
    assert not other.load_state_dict(state).any()
    assert other.other_returns == []
    np.testing.assert_array_equal(other.obs, state["obs"].numpy())
    for obs in expected:
        step = other.step(np.array([1, 1]))
        np.testing.assert_array_equal(step.next_obs, obs)
    assert step.truncated.all()
    assert [episode.length for episode in step.episodes] == [12, 12]


def test_a_time_limit_continues_to_count():
    envs = vector(limit=8)
    envs.reset()
    for _ in range(5):
        envs.step(np.array([0, 1]))
    state, other = envs.state_dict(), vector(limit=8)
    other.reset()
    other.load_state_dict(state)
    assert [other.step(np.array([0, 0])).truncated.all() for _ in range(3)] == [False, False, True]


def test_copies_that_were_lent_continue_where_they_were():
    envs = vector()
    envs.reset()
    for _ in range(5):
        envs.step(np.array([0, 1]))
    number = envs.obs[:, 0].copy()
    borrower = envs.lend(episode_seed=lambda copy, number: 99, max_episode_steps=None)
    borrower.reset()
    for _ in range(3):
        borrower.step(np.array([0, 0]))
    kept = envs.state_dict()["saved"]["0"]["number.json"]
    assert json.loads(bytes(kept.tolist())) == [number[0], 5], "a checkpoint in between"
    step = envs.step(np.array([1, 1]))
    np.testing.assert_array_equal(step.next_obs[:, 0], (171 * number + 2) % 30269)
    np.testing.assert_array_equal(step.next_obs[:, 1], [6, 6])


def test_wrappers_with_a_state_of_their_own_are_replayed():
    assert can_save(TimeLimit(Secret(), 5))
    assert not can_save(FrameStackObservation(Secret(), 2))
    assert not can_save(gym.make("CartPole-v1"))
    envs = VectorEnvironment(
        SerialSimulators([gym.make("CartPole-v1")]), episode_seed=lambda copy, number: number
    )
    envs.reset()
    assert "saved" not in envs.state_dict()


def test_only_plain_files_with_plain_names():
    class Nested(Secret):
        def save(self, path):
            Path(path, "inner").mkdir()

    with pytest.raises(InterfaceError, match=r"save\(\) wrote inner, which is not a plain file"):
        save_env(Nested())
    with pytest.raises(InterfaceError, match=r"'../number.json', which is not a plain name"):
        load_env(Secret(), {"../number.json": np.zeros(1, np.uint8)}, 0)


def test_what_cannot_be_saved_or_loaded_is_replayed(capsys):
    class Broken(Predictable):
        def save(self, path):
            super().save(path)
            if self.steps == 4:
                raise OSError("no space")

    def make():
        return VectorEnvironment(
            SerialSimulators([Broken()]), episode_seed=lambda copy, number: number
        )

    envs = make()
    envs.reset()
    for _ in range(3):
        envs.step(np.array([1]))
    state = envs.state_dict()
    state["saved"]["0"].clear()
    expected = envs.step(np.array([0])).next_obs
    assert "saved" not in envs.state_dict()
    assert "save() failed (OSError: no space); episodes are replayed" in capsys.readouterr().err
    other = make()
    other.reset()
    assert not other.load_state_dict(state).any()
    assert "cannot be loaded (FileNotFoundError" in capsys.readouterr().err
    np.testing.assert_array_equal(other.step(np.array([0])).next_obs, expected)


def test_a_resumed_run_computes_the_same_numbers(tmp_path):
    config = small_config().changed(
        {
            "env.id": f"{__name__}:Predictable",
            "env.kwargs": '{"length": 70}',
            "env.num_envs": 2,
            "total_env_steps": 800,
            "checkpoint.period_env_steps": 150,
            "evaluation.episodes": 2,
            "evaluation.final_episodes": 2,
            "distributed.threads_per_rank": 1,
        }
    )
    whole, parted = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "parted")
    train(config, LocalCommunicator(), whole)
    with pytest.raises(StoppedError):
        train(config, LocalCommunicator(), parted, stop=StopAfter(50))
    train(config, LocalCommunicator(), parted)
    assert_equal(everything(whole.checkpoints), everything(parted.checkpoints))
