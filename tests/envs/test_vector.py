"""Every step is a decision; final observations and returns are the true ones."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import VectorEnvironment, make_vector_env
from hvd_dqn.envs.vector import EpisodesLostError
from hvd_dqn.envs.workers import ProcessEndedError
from tests.envs.scripted import ScriptedSimulators, bytes_space


def make(
    num_envs=3, max_episode_steps=None, vectorization="sync", name="Counting", restarts=0, **kwargs
):
    config = EnvConfig(
        id=f"tests.envs.toy:Toy{name}-v0",
        num_envs=num_envs,
        vectorization=vectorization,
        restarts=restarts,
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
                assert result.ended.tolist() == [over] * 3
                if over:
                    np.testing.assert_array_equal(
                        result.obs, np.stack([seeds + 1, [0] * 3], axis=1)
                    )
                    assert [e[:2] for e in result.episodes] == [(4.0, 4)] * 3
                else:
                    np.testing.assert_array_equal(result.obs, result.next_obs)
                    assert result.episodes == []
    finally:
        envs.close()


def test_a_process_that_dies_is_named_and_replaced(capsys):
    envs = make(vectorization="async", restarts=1)
    try:
        envs.reset()
        envs.step(np.zeros(3, dtype=np.int64))
        victim = kill_first()
        with pytest.raises(EpisodesLostError):
            envs.step(np.zeros(3, dtype=np.int64))
        said = capsys.readouterr().err
        assert f"copy 0 of rank 0: its process {victim} ended with -9" in said
        np.testing.assert_array_equal(envs.obs, [[1, 0], [101, 0], [201, 0]])
        result = envs.step(np.zeros(3, dtype=np.int64))
        np.testing.assert_array_equal(result.next_obs, [[1, 1], [101, 1], [201, 1]])
        kill_first()
        with pytest.raises(ProcessEndedError, match="ended with -9"):
            envs.step(np.zeros(3, dtype=np.int64))
    finally:
        envs.close()
    assert not multiprocessing.active_children()


def kill_first():
    victim = min(multiprocessing.active_children(), key=lambda process: process.pid)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    return victim.pid


def test_results_do_not_change_behind_the_callers_back():
    envs = make(length=2)
    envs.reset()
    first = envs.step(np.zeros(3, dtype=np.int64))
    kept = [np.array(part, copy=True) for part in first[:6]]
    envs.step(np.zeros(3, dtype=np.int64))
    envs.step(np.zeros(3, dtype=np.int64))
    for part, copy in zip(first[:6], kept, strict=True):
        np.testing.assert_array_equal(part, copy)
    envs.close()


def test_actions_may_start_elsewhere_than_at_zero():
    envs = make(first_action=-1)
    envs.reset()
    for action in range(3):
        envs.step(np.full(3, action))
    assert envs.num_actions == 3
    assert envs.action_names() == ["action -1", "action 0", "action 1"]
    envs.close()


def test_an_observation_of_another_shape_than_the_spaces_is_refused():
    envs = make(name="Misshapen")
    with pytest.raises(UserError, match=r"observes an array of float64 of shape \(1,\)"):
        envs.reset()
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


def test_an_environments_own_limit_is_kept():
    config = EnvConfig(id="CartPole-v1", kwargs='{"max_episode_steps": 5}')
    envs = make_vector_env(
        config, num_envs=2, episode_seed=lambda copy, number: 7, max_episode_steps=3
    )
    envs.reset()
    lengths = []
    for _ in range(10):
        step = envs.step(np.zeros(2, dtype=np.int64))
        lengths += [episode.length for episode in step.episodes]
        assert not step.terminated.any()
    assert lengths == [5] * 4
    envs.close()


def scripted(ends, rewards=None, **kwargs):
    simulators = ScriptedSimulators(bytes_space(1), ends, rewards)
    envs = VectorEnvironment(simulators, episode_seed=lambda copy, number: 0, **kwargs)
    envs.reset()
    return [envs.step(np.zeros(envs.num_envs, dtype=np.int64)) for _ in ends]


def test_clipped_rewards_leave_true_returns():
    rewards = np.array([[30.0, -0.25], [-7.0, 0.5], [2.0, 100.0]])
    ends = [[None, None], [None, None], ["terminated", "truncated"]]
    steps = scripted(ends, rewards, reward_clip=1.0)
    np.testing.assert_array_equal(
        [step.reward for step in steps], [[1.0, -0.25], [-1.0, 0.5], [1.0, 1.0]]
    )
    assert steps[0].reward.dtype == np.float32
    assert [episode[:2] for episode in steps[-1].episodes] == [(25.0, 3), (100.25, 3)]


def test_a_reward_that_is_no_number_is_not_clipped_away():
    steps = scripted([[None]], np.array([[np.nan]]), reward_clip=1.0)
    assert np.isnan(steps[0].reward[0])


def test_a_lost_life_ends_no_episode():
    steps = scripted([["life"], [None], ["life"], ["terminated"]])
    assert [bool(step.terminated[0]) for step in steps] == [True, False, True, True]
    assert [bool(step.ended[0]) for step in steps] == [False, False, False, True]
    assert [e[:2] for step in steps for e in step.episodes] == [(4.0, 4)]


def test_the_limit_counts_through_lost_lives_and_truncates():
    steps = scripted([["life"], [None], [None], [None], [None], [None]], max_episode_steps=3)
    assert [bool(step.truncated[0]) for step in steps] == [False, False, True] * 2
    assert [bool(step.ended[0]) for step in steps] == [False, False, True] * 2
    assert not steps[2].terminated[0]


def test_rewards_are_scaled_then_clipped_and_returns_are_neither():
    rewards = np.array([[2.0, -8.0, 0.5]])
    simulators = ScriptedSimulators(bytes_space(1), [["terminated"] * 3], rewards)
    envs = VectorEnvironment(
        simulators, episode_seed=lambda copy, number: 0, reward_scale=0.5, reward_clip=2.0
    )
    envs.reset()
    step = envs.step(np.zeros(3, np.int64))
    assert step.reward.tolist() == [1.0, -2.0, 0.25]
    assert [e.episode_return for e in step.episodes] == [2.0, -8.0, 0.5]
