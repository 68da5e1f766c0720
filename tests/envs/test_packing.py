"""Environments whose observations are packed: what arrives, and what is refused."""

import json

import gymnasium as gym
import numpy as np
import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.envs.interface import EnvironmentFailedError
from hvd_dqn.spaces.records import RecordSpace
from tests.envs.toy import Composite, MaskedRing

RING = "tests.envs.toy:ToyMaskedRing-v0"


class Wrong(MaskedRing):
    """A ring whose mask or observation is wrong after two steps."""

    def __init__(self, fault):
        super().__init__("info" if fault == "missing" else "observation")
        self.fault, self.steps = fault, 0

    def step(self, action):
        self.steps += 1
        obs, *others, info = super().step(action)
        if self.steps < 2:
            return obs, *others, info
        obs = obs if self.fault == "missing" else dict(obs)
        if self.fault == "length":
            obs["action_mask"] = np.ones(4, np.int8)
        elif self.fault == "none":
            obs["action_mask"] = np.zeros(3, np.int8)
        elif self.fault == "value":
            obs["place"] = 5
        else:
            info = {}
        return obs, *others, info


gym.register("Wrong-v0", entry_point=Wrong)


def made(env_id, kwargs=None, **settings):
    config = EnvConfig(id=env_id, kwargs=json.dumps(kwargs or {}), **settings)
    return make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: 10 * copy + number)


def play(envs, steps):
    for _ in range(steps):
        envs.step(envs.legal_actions(envs.obs).argmax(axis=1))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_every_step_gives_the_records_of_the_environments_observations(vectorization):
    envs = made("tests.envs.toy:ToyComposite-v0", text="tokens", vectorization=vectorization)
    alone = [Composite() for _ in range(2)]
    space = RecordSpace(alone[0].observation_space, text="tokens")
    try:
        found = [envs.reset()]
        expected = [[space.pack(env.reset(seed=10 * copy)[0]) for copy, env in enumerate(alone)]]
        for _ in range(5):
            found.append(envs.step(np.zeros(2, np.int64)).next_obs)
            expected.append([space.pack(env.step(0)[0]) for env in alone])
    finally:
        envs.close()
    np.testing.assert_array_equal(found, expected)
    assert envs.legal_actions(found[0]) is None


@pytest.mark.parametrize("where", ["observation", "method", "info"])
def test_masks_arrive_with_the_observations_they_belong_to(where):
    settings = {"action_mask": "info"} if where == "info" else {}
    envs = made(RING, {"where": where}, frame_stack=2, **settings)
    rng = np.random.default_rng(0)
    alone = [MaskedRing() for _ in range(2)]
    envs.reset()
    for copy, env in enumerate(alone):
        env.reset(seed=10 * copy)
    numbers = [0, 0]
    for _ in range(40):
        legal = envs.legal_actions(envs.obs)
        np.testing.assert_array_equal(legal, MaskedRing.LEGAL[[env.state for env in alone]] != 0)
        action = np.array([rng.choice(np.flatnonzero(mask)) for mask in legal])
        step = envs.step(action)
        for copy, env in enumerate(alone):
            _, reward, *_ = env.step(action[copy])
            assert step.reward[copy] == np.float32(reward)
            if step.ended[copy]:
                numbers[copy] += 1
                env.reset(seed=10 * copy + numbers[copy])
    envs.close()
    assert min(numbers) > 3


def test_masks_can_be_ignored():
    envs = made(RING, action_mask="none")
    assert envs.legal_actions(envs.reset()) is None
    envs.close()


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        (
            "length",
            EnvironmentFailedError,
            "mask has 4 entries, and there are 3 actions",
        ),
        ("none", EnvironmentFailedError, "allows no action in a state that is not terminated"),
        ("missing", EnvironmentFailedError, "its info contains no action mask"),
        ("value", UserError, "observes place: 5, which is not in Discrete"),
    ],
)
def test_what_is_wrong_is_named(fault, error, told):
    settings = {"action_mask": "info"} if fault == "missing" else {}
    envs = made("tests.envs.test_packing:Wrong-v0", {"fault": fault}, **settings)
    envs.reset()
    with pytest.raises(error, match=told):
        play(envs, 3)
    envs.close()


def test_one_line_says_what_the_network_gets():
    envs = made("tests.envs.toy:ToyComposite-v0", text="drop")
    assert envs.raw_space.summary() == (
        "answer (one of 3), grid (grid 5 × 5 of 4 · 2 codes), more.0 (2, each one of up to 300), "
        "more.1 (2 flags), more.2 (1 numbers), picture (image 6 × 6 × 1, channels last); "
        "without the text words: see --env.text"
    )
    envs.close()
