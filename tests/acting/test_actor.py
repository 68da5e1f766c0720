"""Who explores, for how long, and what reaches the replay."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.acting.actor import Actor
from hvd_dqn.acting.exploration import (
    Slots,
    Values,
    as_actions,
    epsilon_greedy,
    make_exploration,
)
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.stages import StageClock
from hvd_dqn.config import ConfigError, ExplorationConfig, NetworkConfig, ObjectiveConfig
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.methods.registry import make_network
from tests.envs.scripted import ScriptedSimulators, bytes_space

BEST = 3


def make(epsilon=1.0, num_envs=1000, zeta_exponent=None):
    """With a constant ε."""
    config = ExplorationConfig(
        epsilon_initial=epsilon, epsilon_final=epsilon, zeta_exponent=zeta_exponent
    )
    rng = np.random.default_rng(0)
    return make_exploration(config, Slots(0, num_envs, num_envs), num_actions=3, rng=rng)


def values_of(num_envs):
    """Of four actions, the last of which is the best; explorations draw only from the others."""
    return Values(lambda: np.tile([0.0, 0.0, 0.0, 1.0], (num_envs, 1)))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_share_of_random_actions(epsilon):
    exploration = make(epsilon)
    actions = np.array([exploration.choose(0, values_of(1000)) for _ in range(200)])
    assert (actions != BEST).mean() == pytest.approx(epsilon, abs=0.01)
    if epsilon:
        counts = np.bincount(actions[actions != BEST], minlength=3)
        assert counts / counts.sum() == pytest.approx(np.full(3, 1 / 3), abs=0.01)


def test_the_network_is_not_asked_where_all_explore():
    def never():
        raise AssertionError("asked")

    assert make(1.0).choose(0, Values(never)).shape == (1000,)


@pytest.mark.parametrize("draws_always", [False, True])
def test_the_order_of_random_numbers(draws_always):
    """It is part of a run's identity: first who explores, then an action for every environment; in
    evaluations these are drawn even if no environment explores.
    """
    ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
    values = np.random.default_rng(2).normal(size=(3, 4))
    for share in (0.2, 0.0, 0.9, 1.0) * 20:
        epsilon = np.array([0.0, 0.5, 1.0]) * share
        action = epsilon_greedy(epsilon, 4, Values(lambda: values), ours, draws_always=draws_always)
        exploring = theirs.random(3) < epsilon
        expected = values.argmax(axis=1)
        if exploring.any() or draws_always:
            expected = np.where(exploring, theirs.integers(4, size=3), expected)
        np.testing.assert_array_equal(action, expected)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint64, list])
def test_actions_of_every_integer_type_are_stored_as_int64(kind):
    chosen = [0, 2, 1] if kind is list else np.array([0, 2, 1], dtype=kind)
    action = as_actions(chosen, num_envs=3, num_actions=3)
    assert action.dtype == np.int64
    assert action.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "chosen",
    [
        np.array([0.0, 1.0, 2.0]),  # the replay would read their bits: 0, 0, 0
        np.array([[0], [1], [2]]),
        np.array([0, 1]),
        np.array([0, 1, 3]),
        np.array([0, -1, 2]),
        np.array([True, False, True]),
        np.int64(1),
        None,
    ],
    ids=str,
)
def test_what_is_no_action_is_reported(chosen):
    with pytest.raises(ValueError, match=r"exploration\.kind: .* must choose 3 integers in 0 … 2"):
        as_actions(chosen, num_envs=3, num_actions=3)


def runs(row):
    """Lengths of the stretches of random actions."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_zeta_durations_follow_their_law():
    exploration = make(0.01, zeta_exponent=2.0)
    actions = np.array([exploration.choose(0, values_of(1000)) for _ in range(400)]).T
    lengths = np.concatenate([runs(row != BEST) for row in actions])
    # ζ(2) = π²/6; stretches that meet or are cut by the end are few at ε = 0.01
    for k in (1, 2, 3):
        assert (lengths == k).mean() == pytest.approx(6 / np.pi**2 / k**2, rel=0.15)
    assert lengths.max() > 50


def test_no_random_action_outlasts_its_episode():
    config = ExplorationConfig(
        epsilon_initial=1.0, epsilon_final=0.0, epsilon_decay_env_steps=1, zeta_exponent=1.01
    )
    exploration = make_exploration(
        config, Slots(0, 2, 2), num_actions=3, rng=np.random.default_rng(0)
    )
    while not (exploration._remaining > 10).all():
        exploration.choose(0, values_of(2))
    exploration.end_episodes(np.array([True, False]))
    action = exploration.choose(1, values_of(2))
    assert action[0] == BEST
    assert action[1] != BEST


class Recorder:
    """A replay that keeps what it is given."""

    needs_values = False

    def __init__(self):
        self.steps = []

    def start(self, obs):
        self.first = obs

    def add(self, action, step, value):
        self.steps.append(step)


class Zeros:
    """A policy."""

    def values(self, obs):
        return np.array([[1.0, 0.0], [1.0, 0.0]])

    def follow(self):
        pass


def test_a_lost_life_is_terminal_for_the_replay_and_ends_nothing_else():
    ends = [["life", None], ["truncated", "terminated"]]
    envs = VectorEnvironment(
        ScriptedSimulators(bytes_space(1), ends), episode_seed=lambda copy, number: 0
    )
    replay, exploration = Recorder(), make(0.5, num_envs=2, zeta_exponent=1.01)
    envs.reset()
    actor = Actor(envs, Zeros(), exploration, replay, StageClock())
    ended = []
    exploration.end_episodes = lambda mask: ended.append(mask.tolist())
    episodes = [actor.step(0), actor.step(2)]
    assert [step.terminated.tolist() for step in replay.steps] == [[True, False], [False, True]]
    assert [step.ended.tolist() for step in replay.steps] == [[False, False], [True, True]]
    assert [step.truncated.tolist() for step in replay.steps] == [[False, False], [True, False]]
    assert [len(part) for part in episodes] == [0, 2]
    assert ended == [[True, True]]


@pytest.mark.parametrize("in_a_thread", [True, False])
@pytest.mark.parametrize("meanwhile", [True, False])
def test_a_step_in_two_halves_reaches_the_replay_in_the_second(in_a_thread, meanwhile):
    ends = [[None, "life"], ["terminated", None]]
    simulators = ScriptedSimulators(bytes_space(1), ends)
    simulators.lets_others_run = in_a_thread
    envs = VectorEnvironment(simulators, episode_seed=lambda copy, number: 0)
    replay = Recorder()
    envs.reset()
    actor = Actor(envs, Zeros(), make(0.0, num_envs=2), replay, StageClock())
    for steps in (0, 1):
        actor.begin_step(0)
        if meanwhile:
            actor.step_meanwhile()
        assert len(replay.steps) == steps
        episodes = actor.finish_step()
        assert len(replay.steps) == steps + 1
        assert len(episodes) == steps
    assert [step.terminated.tolist() for step in replay.steps] == [[False, True], [True, False]]
    envs.close()


@pytest.mark.parametrize("in_a_thread", [True, False])
def test_episodes_lost_in_the_background_begin_anew_and_step(in_a_thread):
    broken = ScriptedSimulators(bytes_space(1), [], num_envs=2)  # its first step raises
    broken.lets_others_run = in_a_thread
    fresh = ScriptedSimulators(bytes_space(1), [[None, None]])
    envs = VectorEnvironment(
        broken, episode_seed=lambda copy, number: number, remake=lambda error, close: fresh
    )
    replay = Recorder()
    replay.truncate = lambda columns, obs: replay.steps.append("cut")
    envs.reset()
    actor = Actor(envs, Zeros(), make(0.0, num_envs=2), replay, StageClock())
    actor.begin_step(0)
    actor.step_meanwhile()
    assert actor.finish_step() == []
    assert replay.steps[0] == "cut"
    assert len(replay.steps) == 2
    envs.close()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_ladder_stands_over_all_environments_of_all_ranks(rank):
    """Horgan et al. 2018: ε = 0.4^(1 + 7·i/(N − 1)) for the i-th of N."""
    count, draws = 4, 20_000
    exploration = make_exploration(
        ExplorationConfig(kind="ladder"),
        Slots(count * rank, count, 3 * count),
        num_actions=3,
        rng=np.random.default_rng(0),
    )
    actions = np.array([exploration.choose(500, values_of(count)) for _ in range(draws)])
    ladder = 0.4 ** (1 + 7 * np.arange(12) / 11)
    expected = ladder[count * rank : count * rank + count]
    assert (actions != BEST).mean(axis=0) == pytest.approx(expected, abs=0.012)
    assert exploration.mean_epsilon(500) == pytest.approx(ladder.mean())


def test_one_environment_alone_has_the_ladders_first_epsilon():
    exploration = make_exploration(
        ExplorationConfig(kind="ladder"),
        Slots(0, 1, 1),
        num_actions=3,
        rng=np.random.default_rng(0),
    )
    assert exploration.mean_epsilon(0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("decay", "env_steps", "expected"),
    [(100, 0, 1.0), (100, 50, 0.6), (100, 100, 0.2), (100, 1000, 0.2), (0, 0, 0.2)],
)
def test_annealing(decay, env_steps, expected):
    config = ExplorationConfig(
        epsilon_initial=1.0, epsilon_final=0.2, epsilon_decay_env_steps=decay
    )
    exploration = make_exploration(
        config, Slots(0, 2, 4), num_actions=3, rng=np.random.default_rng(0)
    )
    assert exploration.mean_epsilon(env_steps) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("boltzmann", "must be one of annealed, ladder, or module:function"),
        ("tests.acting.test_actor:nobody", "has no attribute 'nobody'"),
        ("tests.acting.test_actor:runs", "raises TypeError"),
        ("builtins:print", "must return a hvd_dqn.acting.exploration.Exploration"),
    ],
)
def test_an_exploration_that_is_none_is_refused(kind, said):
    with pytest.raises(ConfigError, match=said) as caught:
        make_exploration(
            ExplorationConfig(kind=kind),
            Slots(0, 1, 1),
            num_actions=3,
            rng=np.random.default_rng(0),
        )
    assert "\n" not in str(caught.value)


def test_a_noisy_policy_acts_with_noise_and_is_judged_without():
    torch.manual_seed(0)
    network = make_network(
        NetworkConfig(hidden_sizes=(32,), noisy=True),
        ObjectiveConfig(),
        obs_space=gym.spaces.Box(-1, 1, (3,)),
        num_actions=4,
        device=torch.device("cpu"),
    )
    acting = GreedyPolicy(network, torch.device("cpu"), torch.Generator().manual_seed(0))
    judged = GreedyPolicy(network, torch.device("cpu"))
    obs = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    first = judged(obs)
    assert not np.array_equal(acting(obs), acting(obs))
    assert np.array_equal(judged(obs), first), "whatever noise the last step drew"
