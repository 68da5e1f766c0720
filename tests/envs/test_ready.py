"""A step that completes when some copies have stepped: none of their steps is lost or mixed up."""

from __future__ import annotations

import json
import time

import numpy as np

from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env, ready
from hvd_dqn.envs.vector import EpisodesLostError


def make(name="Recorded", num_envs=4, count=2, restarts=0, **kwargs):
    config = EnvConfig(
        id=f"tests.envs.toy:Toy{name}-v0",
        num_envs=num_envs,
        vectorization="async",
        ready_fraction=count / num_envs,
        restarts=restarts,
        kwargs=json.dumps(kwargs),
    )
    return make_vector_env(
        config,
        num_envs=num_envs,
        episode_seed=lambda copy, number: 100 * copy + number,
        ready=config.ready_envs,
    )


def test_every_copy_takes_its_own_actions_one_after_the_other():
    """The environment observes its seed, its steps and the sum of its actions in the episode."""
    envs, rng = make(length=7, seconds=0.002), np.random.default_rng(0)
    try:
        obs = envs.reset()
        steps, chosen_by = np.zeros(4, dtype=int), [[] for _ in range(4)]
        for _ in range(120):
            current = obs.copy()
            step = envs.step(rng.integers(0, 3, size=4))
            assert step.stepped.sum() == 2
            for copy in range(4):
                if not step.stepped[copy]:
                    np.testing.assert_array_equal(step.obs[copy], current[copy])
                    assert not step.ended[copy]
                    continue
                steps[copy] += 1
                chosen_by[copy].append(int(step.action[copy]))
                seed, taken, total = current[copy]
                expected = [seed, taken + 1, total + step.action[copy]]
                assert step.next_obs[copy].tolist() == expected, "its step follows its observation"
                assert step.reward[copy] == step.action[copy]
                assert step.truncated[copy] == step.ended[copy] == (taken == 6)
                if step.ended[copy]:
                    assert step.obs[copy].tolist() == [seed + 1, 0, 0]
                else:
                    assert step.obs[copy].tolist() == expected
            assert len(step.episodes) == step.ended.sum()
            obs = step.obs
        assert steps.sum() == 240
        assert steps.min() > 20, "the first copies do not take all the steps"
        state = envs.state_dict()
        for copy in range(4):
            length = int(state["length"][copy])
            actions = state["actions"][copy, :length].tolist()
            assert actions == chosen_by[copy][len(chosen_by[copy]) - length :]
    finally:
        envs.close()


def test_steps_under_way_are_not_part_of_the_state():
    envs = make(length=30, seconds=0.002)
    try:
        envs.reset()
        for _ in range(25):
            step = envs.step(np.ones(4, dtype=np.int64))
        state = envs.state_dict()
        for _ in range(5):
            envs.step(np.zeros(4, dtype=np.int64))
        lost = envs.load_state_dict(state)
        assert not lost.any()
        np.testing.assert_array_equal(envs.obs, step.obs)
        for _ in range(5):
            after = envs.step(np.full(4, 2))
            assert after.stepped.sum() == 2
            assert (after.action == 2).all(), "all copies take new actions"
    finally:
        envs.close()


def test_a_slow_copy_holds_up_none_until_it_is_overdue(monkeypatch):
    envs = make("Slow", num_envs=3, count=1, seconds=0.4, copy="{copy}", slow_copy=2)
    try:
        envs.reset()
        began = time.perf_counter()
        for _ in range(20):
            step = envs.step(np.zeros(3, dtype=np.int64))
            assert not step.stepped[2]
        assert time.perf_counter() - began < 0.4
        monkeypatch.setattr(ready, "MOST_STEPS_UNDER_WAY", 20)
        assert envs.step(np.zeros(3, dtype=np.int64)).stepped.tolist() == [False, False, True]
        assert time.perf_counter() - began >= 0.4
    finally:
        envs.close()


def test_other_episodes_may_be_played_in_the_same_copies_meanwhile():
    envs = make(length=50, seconds=0.002)
    try:
        envs.reset()
        for _ in range(9):
            step = envs.step(np.ones(4, dtype=np.int64))
        borrower = envs.lend(episode_seed=lambda copy, number: 900 + copy, max_episode_steps=None)
        assert borrower.reset()[:, 0].tolist() == [900, 901, 902, 903]
        assert borrower.step(np.ones(4, dtype=np.int64)).next_obs[:, 1].tolist() == [1] * 4
        after = envs.step(np.full(4, 2))
        expected = step.obs + np.outer(after.stepped, [0, 1, 2])
        np.testing.assert_array_equal(after.next_obs, expected)
    finally:
        envs.close()


def test_copies_are_recreated_after_one_of_them_raised():
    envs = make("Faulty", num_envs=2, count=1, restarts=1, after=4)
    try:
        envs.reset()
        lost = []
        for _ in range(20):
            try:
                envs.step(np.zeros(2, dtype=np.int64))
            except EpisodesLostError as error:
                lost.append(error.lost)
                break
        assert [every.tolist() for every in lost] == [[True, True]]
        assert envs.step(np.zeros(2, dtype=np.int64)).stepped.sum() == 1
    finally:
        envs.close()
