"""Every step is a decision; final observations and returns are the true ones."""

import json

import numpy as np
import pytest

from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env


def make(num_envs=3, max_episode_steps=None, vectorization="sync", name="Counting", **kwargs):
    config = EnvConfig(
        id=f"tests.envs.toy:Toy{name}-v0",
        num_envs=num_envs,
        vectorization=vectorization,
        kwargs=json.dumps(kwargs),
    )
    return make_vector_env(
        config,
        num_envs=num_envs,
        episode_seed=lambda copy, number: 100 * copy + number,
        max_episode_steps=max_episode_steps,
    )


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_an_ended_copy_restarts_at_once_with_its_next_seed(vectorization, end):
    envs = make(vectorization=vectorization, length=4, end=end)
    try:
        obs = envs.reset()
        np.testing.assert_array_equal(obs, [[0, 0], [100, 0], [200, 0]])
        for episode in range(3):
            for step in range(1, 5):
                result = envs.step(np.zeros(3, dtype=np.int64))
                seeds = np.array([0, 100, 200]) + episode
                np.testing.assert_array_equal(
                    result.next_obs, np.stack([seeds, [step] * 3], axis=1)
                )
                over = step == 4
                assert result.terminated.tolist() == [over and end == "terminated"] * 3
                assert result.truncated.tolist() == [over and end == "truncated"] * 3
                if over:
                    np.testing.assert_array_equal(
                        result.obs, np.stack([seeds + 1, [0] * 3], axis=1)
                    )
                    assert [tuple(e) for e in result.episodes] == [(4.0, 4)] * 3
                else:
                    np.testing.assert_array_equal(result.obs, result.next_obs)
                    assert result.episodes == []
    finally:
        envs.close()


def test_results_do_not_change_behind_the_callers_back():
    envs = make(length=2)
    envs.reset()
    first = envs.step(np.zeros(3, dtype=np.int64))
    kept = [np.array(part, copy=True) for part in first[:5]]
    envs.step(np.zeros(3, dtype=np.int64))
    envs.step(np.zeros(3, dtype=np.int64))
    for part, copy in zip(first[:5], kept, strict=True):
        np.testing.assert_array_equal(part, copy)
    envs.close()


def test_actions_may_start_elsewhere_than_at_zero():
    envs = make(first_action=-1)
    envs.reset()
    for action in range(3):
        envs.step(np.full(3, action))
    assert envs.num_actions == 3
    envs.close()


def test_observations_are_float32_or_bytes():
    envs = make()
    assert envs.obs_dtype == np.float32
    assert envs.reset().dtype == np.float32
    envs.close()


def test_an_endless_environment_is_limited_where_asked():
    envs = make(name="Endless", max_episode_steps=7)
    envs.reset()
    lengths = []
    for _ in range(14):
        lengths += [e.length for e in envs.step(np.zeros(3, dtype=np.int64)).episodes]
    assert lengths == [7] * 6
    envs.close()


def test_reset_starts_the_same_episodes_again():
    envs = make(name="Identity", num_envs=2)
    first = [envs.reset()] + [envs.step(np.zeros(2, dtype=np.int64)).obs for _ in range(30)]
    again = [envs.reset()] + [envs.step(np.zeros(2, dtype=np.int64)).obs for _ in range(30)]
    np.testing.assert_array_equal(first, again)
    envs.close()
