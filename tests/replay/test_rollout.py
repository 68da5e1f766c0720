"""λ-returns and minibatches of rollouts, against returns that are summed episode by episode."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvd_dqn.common.structs import EnvStep
from hvd_dqn.config import Config, ConfigError, EnvConfig, ObjectiveConfig, RolloutConfig
from hvd_dqn.methods.returns import ReturnsObjective
from hvd_dqn.replay import Rollout

GAMMA = 0.9


def value_of(obs):
    """The values of observations [B, 2]: any function of them."""
    return np.sin(3 * obs[:, 0]) + obs[:, 1]


def rollout(num_envs, steps, td_lambda=0.65, minibatches=1, seed=0):
    return Rollout(
        num_envs=num_envs,
        steps=steps,
        obs_shape=(2,),
        obs_dtype=np.dtype(np.float32),
        gamma=GAMMA,
        td_lambda=td_lambda,
        minibatches=minibatches,
        values=value_of,
        rng=np.random.default_rng(seed),
        device=torch.device("cpu"),
    )


def random_steps(rng, num_envs, count):
    """Steps with every kind of end: terminated, truncated, both, a lost life, and none."""
    obs = rng.normal(size=(num_envs, 2)).astype(np.float32)
    for _ in range(count):
        kind = rng.choice(5, size=num_envs, p=[0.15, 0.15, 0.05, 0.1, 0.55])
        next_obs = rng.normal(size=(num_envs, 2)).astype(np.float32)
        ended = kind < 3
        following = np.where(ended[:, None], rng.normal(size=(num_envs, 2)), next_obs)
        yield {
            "before": obs,
            "action": rng.integers(3, size=num_envs),
            "reward": rng.normal(size=num_envs).astype(np.float32),
            "terminated": (kind == 0) | (kind == 2) | (kind == 3),
            "truncated": (kind == 1) | (kind == 2),
            "ended": ended,
            "next_obs": next_obs,
            "obs": following.astype(np.float32),
        }
        obs = following.astype(np.float32)


def add(buffer, step):
    """Add a step, as the actor does."""
    fields = {key: value for key, value in step.items() if key not in ("action", "before")}
    buffer.add(step["action"], EnvStep(**fields, episodes=[]), value_of(step["before"]))


def filled(buffer, steps):
    """Add the steps, as the actor does."""
    steps = list(steps)
    buffer.start(steps[0]["before"])
    for step in steps:
        add(buffer, step)
    return steps


def expected_return(steps, env, number, td_lambda):
    """The return of one step, forwards: the mean over the lengths n of n-step returns, in which
    lengths have the weights (1 − λ)·λⁿ⁻¹, and the longest one the rest.
    """
    total, weight, discount, rewards = 0.0, 1.0, 1.0, 0.0
    for step in steps[number:]:
        rewards += discount * step["reward"][env]
        if step["terminated"][env]:
            return total + weight * rewards
        discount *= GAMMA
        bootstrapped = rewards + discount * value_of(step["next_obs"])[env]
        if step["ended"][env] or step is steps[-1]:
            return total + weight * bootstrapped
        total += weight * (1 - td_lambda) * bootstrapped
        weight *= td_lambda
    raise AssertionError


@settings(max_examples=60)
@given(
    seed=st.integers(0, 999),
    num_envs=st.integers(1, 4),
    count=st.integers(1, 9),
    td_lambda=st.sampled_from([0.0, 0.3, 0.65, 1.0]),
)
def test_returns_are_those_of_every_length(seed, num_envs, count, td_lambda):
    buffer = rollout(num_envs, count, td_lambda)
    for _ in range(2):  # the second one overwrites the first
        rng = np.random.default_rng(seed)
        steps = filled(buffer, random_steps(rng, num_envs, count))
        expected = [
            [expected_return(steps, env, number, td_lambda) for env in range(num_envs)]
            for number in range(count)
        ]
        np.testing.assert_allclose(buffer.returns(), expected, rtol=1e-4, atol=1e-5)


def test_every_step_is_drawn_once_in_each_epoch_with_what_belongs_to_it():
    rng = np.random.default_rng(0)
    buffer = rollout(4, 6, minibatches=3)
    steps = filled(buffer, random_steps(rng, 4, 6))
    before = np.concatenate([step["before"] for step in steps])
    action = np.concatenate([step["action"] for step in steps])
    returns = buffer.returns().reshape(-1)
    orders = []
    batches = buffer.batches(6)
    for _ in range(2):
        slots = []
        for _ in range(3):
            batch = next(batches)
            assert batch.obs.shape == (8, 2)
            np.testing.assert_array_equal(batch.obs, before[batch.slot])
            np.testing.assert_array_equal(batch.action, action[batch.slot])
            np.testing.assert_array_equal(batch.reward, returns[batch.slot])
            assert (batch.discount == 0).all()
            assert (batch.weight == 1).all()
            slots += batch.slot.tolist()
        assert sorted(slots) == list(range(24))
        orders.append(slots)
    assert orders[0] != orders[1]
    assert next(batches, None) is None


def test_a_step_that_began_an_episode_has_no_weight():
    rng = np.random.default_rng(1)
    buffer = rollout(2, 3)
    steps = list(random_steps(rng, 2, 3))
    steps[1]["skipped"] = np.array([True, False])
    filled(buffer, steps)
    (batch,) = buffer.batches(1)
    weights = dict(zip(batch.slot.tolist(), batch.weight.tolist(), strict=True))
    assert [slot for slot, weight in weights.items() if weight == 0] == [2]


@pytest.mark.parametrize("number", range(1, 5))
def test_a_lost_episode_is_truncated_where_it_was(number):
    """The environment broke after `number` steps, and begins again elsewhere."""
    rng = np.random.default_rng(2)
    steps = list(random_steps(rng, 3, 4))
    for step in steps:  # episodes that go on
        for end in ("terminated", "truncated", "ended"):
            step[end][:] = False
        step["obs"] = step["next_obs"]
    for earlier, later in itertools.pairwise(steps):
        later["before"] = earlier["obs"]
    buffer = rollout(3, 4)
    buffer.start(steps[0]["before"])
    for count, step in enumerate(steps, start=1):
        add(buffer, step)
        if count == number:
            fresh = rng.normal(size=(1, 2)).astype(np.float32)
            buffer.truncate(np.array([1]), fresh)
            step["truncated"][1] = step["ended"][1] = True
            step["obs"] = step["obs"].copy()
            step["obs"][1] = fresh[0]
            if count < 4:
                steps[count]["before"] = step["obs"]
    expected = [[expected_return(steps, env, row, 0.65) for env in range(3)] for row in range(4)]
    np.testing.assert_allclose(buffer.returns(), expected, rtol=1e-4, atol=1e-5)


def test_an_environment_that_breaks_between_episodes_loses_nothing():
    rng = np.random.default_rng(7)
    steps = list(random_steps(rng, 1, 2))
    for name, value in (("terminated", True), ("truncated", False), ("ended", True)):
        steps[0][name] = np.array([value])
        steps[1][name] = np.array([False])
    buffer = rollout(1, 2)
    buffer.start(steps[0]["before"])
    add(buffer, steps[0])
    fresh = rng.normal(size=(1, 2)).astype(np.float32)
    buffer.truncate(np.array([0]), fresh)
    add(buffer, steps[1] | {"before": fresh})
    first, second = buffer.returns()[:, 0]
    assert first == steps[0]["reward"][0]
    assert second == pytest.approx(steps[1]["reward"][0] + GAMMA * value_of(steps[1]["obs"])[0])


def test_settings_of_rollouts_need_rollouts():
    with pytest.raises(ConfigError, match=r"rollout.epochs = 3: requires rollout.steps"):
        Config(rollout=RolloutConfig(epochs=3))


def test_a_state_holds_what_the_next_rollout_begins_with():
    rng = np.random.default_rng(3)
    steps = list(random_steps(rng, 2, 8))
    first, second = rollout(2, 4, minibatches=2), rollout(2, 4, minibatches=2, seed=9)
    filled(first, steps[:4])
    list(first.batches(4))
    second.load_state_dict(first.state_dict())
    for buffer in (first, second):
        for step in steps[4:]:
            add(buffer, step)
    for ours, theirs in zip(first.batches(4), second.batches(4), strict=True):
        for name in ("obs", "action", "reward", "weight", "slot"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_two_ranks_have_the_returns_of_one_with_all_environments():
    rng = np.random.default_rng(4)
    steps = list(random_steps(rng, 6, 5))
    whole = rollout(6, 5)
    filled(whole, steps)
    halves = []
    for part in (slice(0, 3), slice(3, 6)):
        half = rollout(3, 5)
        filled(half, [{key: value[part] for key, value in step.items()} for step in steps])
        halves.append(half.returns())
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole.returns())


def test_the_loss_compares_the_values_of_the_actions_with_the_returns():
    class Network(torch.nn.Module):
        branches = None

        def forward(self, obs):
            return torch.stack((obs[:, 0], 2 * obs[:, 0]), dim=1)

    buffer = rollout(3, 2)
    filled(buffer, random_steps(np.random.default_rng(5), 3, 2))
    (batch,) = buffer.batches(1)
    batch = batch._replace(action=batch.action % 2)
    terms = ReturnsObjective(ObjectiveConfig(loss="squared"))(Network(), None, batch)
    value = batch.obs[:, 0] * (1 + batch.action)
    torch.testing.assert_close(terms.value, value)
    torch.testing.assert_close(terms.loss, (batch.reward - value).square() / 2)
    torch.testing.assert_close(terms.abs_td_error, (batch.reward - value).abs())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout.td_lambda": 1.5}, r"rollout.td-lambda = 1.5: must be between 0 and 1"),
        ({"rollout.td_lambda": -0.1}, r"rollout.td-lambda = -0.1: must be between 0 and 1"),
        ({"rollout.minibatches": 7}, r"must divide the 64 steps of a rollout .* 8 · 8\)"),
        ({"replay.n_step": 3}, r"replay.n-step = 3: .*rollout.td-lambda; set it to 1"),
        ({"replay.sampling": "prioritized"}, r"no replay to sample; set it to uniform"),
        ({"replay.storage": "device"}, r"set it to host"),
        ({"replay.batch_size": 32}, r"1 / rollout.minibatches of a rank's steps"),
        ({"replay.capacity": 1000}, r"no replay to hold anything"),
        ({"vector_steps_per_iteration": 4}, r"an iteration is one rollout; set it to 1"),
        ({"updates_per_iteration": 4}, r"rollout.epochs · rollout.minibatches"),
        ({"objective.distribution": "quantile"}, r"set it to expected"),
        ({"objective.munchausen": True}, r"set it to False"),
        ({"objective.double": True}, r"no target network"),
        ({"objective.normalize_rewards": True}, r"use env.reward-scale"),
        ({"env.overlap_updates": True}, r"updates need the whole rollout"),
    ],
)
def test_what_does_not_go_with_rollouts_is_refused(changes, said):
    good = Config(
        env=EnvConfig(num_envs=8),
        rollout=RolloutConfig(steps=8, minibatches=4),
        objective=ObjectiveConfig(double=False),
    )
    assert (good.vector_steps, good.updates, good.batch_size) == (8, 8, 16)
    with pytest.raises(ConfigError, match=said):
        good.changed(changes)
