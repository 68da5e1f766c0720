"""Who explores, for how long, and what reaches the replay."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.acting.actor import Actor
from hvd_dqn.acting.exploration import Exploration
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.stages import StageClock
from hvd_dqn.config import Config, NetworkConfig, ObjectiveConfig
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.networks import make_network
from hvd_dqn.run.pace import make_pace
from tests.envs.scripted import ScriptedSimulators, bytes_space


def make(num_envs=1000, zeta_exponent=None):
    rng = np.random.default_rng(0)
    return Exploration(num_envs=num_envs, num_actions=4, zeta_exponent=zeta_exponent, rng=rng)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_share_of_random_actions(epsilon):
    exploration = make()
    greedy = np.full(1000, 9)
    actions = np.array(
        [exploration.choose(np.full(1000, epsilon), lambda: greedy) for _ in range(200)]
    )
    assert (actions != 9).mean() == pytest.approx(epsilon, abs=0.01)
    if epsilon:
        counts = np.bincount(actions[actions != 9], minlength=4)
        assert counts / counts.sum() == pytest.approx(np.full(4, 0.25), abs=0.01)


def test_the_network_is_not_asked_where_all_explore():
    def never():
        raise AssertionError("asked")

    assert make().choose(np.ones(1000), never).shape == (1000,)


def runs(row):
    """Lengths of the stretches of random actions."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_zeta_durations_follow_their_law():
    exploration = make(zeta_exponent=2.0)
    greedy = np.full(1000, 9)
    actions = np.array(
        [exploration.choose(np.full(1000, 0.01), lambda: greedy) for _ in range(400)]
    ).T
    lengths = np.concatenate([runs(row != 9) for row in actions])
    # ζ(2) = π²/6; stretches that meet or are cut by the end are few at ε = 0.01
    for k in (1, 2, 3):
        assert (lengths == k).mean() == pytest.approx(6 / np.pi**2 / k**2, rel=0.15)
    assert lengths.max() > 50


def test_no_random_action_outlasts_its_episode():
    exploration = make(num_envs=2, zeta_exponent=1.01)
    greedy = np.full(2, 9)
    while not (exploration._remaining > 10).all():
        exploration.choose(np.ones(2), lambda: greedy)
    exploration.end_episodes(np.array([True, False]))
    action = exploration.choose(np.zeros(2), lambda: greedy)
    assert action[0] == 9
    assert action[1] != 9


class Recorder:
    """A replay that keeps what it is given."""

    def __init__(self):
        self.steps = []

    def start(self, obs):
        self.first = obs

    def add(self, **step):
        self.steps.append(step)


class Zeros:
    """A policy."""

    def __call__(self, obs):
        return np.zeros(2, dtype=np.int64)

    def follow(self):
        pass


def test_a_lost_life_is_terminal_for_the_replay_and_ends_nothing_else():
    ends = [["life", None], ["truncated", "terminated"]]
    envs = VectorEnvironment(
        ScriptedSimulators(bytes_space(1), ends), episode_seed=lambda copy, number: 0
    )
    replay, exploration = Recorder(), make(num_envs=2, zeta_exponent=1.01)
    actor = Actor(envs, Zeros(), exploration, replay, StageClock())
    ended = []
    exploration.end_episodes = lambda mask: ended.append(mask.tolist())
    episodes = [actor.step(0.5), actor.step(0.5)]
    assert [step["terminated"].tolist() for step in replay.steps] == [[True, False], [False, True]]
    assert [step["ended"].tolist() for step in replay.steps] == [[False, False], [True, True]]
    assert [step["truncated"].tolist() for step in replay.steps] == [[False, False], [True, False]]
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
    actor = Actor(envs, Zeros(), make(num_envs=2), replay, StageClock())
    for steps in (0, 1):
        actor.begin_step(np.zeros(2))
        if meanwhile:
            actor.step_meanwhile()
        assert len(replay.steps) == steps
        episodes = actor.finish_step()
        assert len(replay.steps) == steps + 1
        assert len(episodes) == steps
    assert [step["terminated"].tolist() for step in replay.steps] == [[False, True], [True, False]]
    envs.close()


@pytest.mark.parametrize("in_a_thread", [True, False])
def test_episodes_lost_in_the_background_begin_anew_and_step(in_a_thread):
    broken = ScriptedSimulators(bytes_space(1), [], num_envs=2)  # its first step raises
    broken.lets_others_run = in_a_thread
    fresh = ScriptedSimulators(bytes_space(1), [[None, None]])
    envs = VectorEnvironment(
        broken, episode_seed=lambda copy, number: number, remake=lambda error: fresh
    )
    replay = Recorder()
    replay.cut = lambda columns, obs: replay.steps.append("cut")
    actor = Actor(envs, Zeros(), make(num_envs=2), replay, StageClock())
    actor.begin_step(np.zeros(2))
    actor.step_meanwhile()
    assert actor.finish_step() == []
    assert replay.steps[0] == "cut"
    assert len(replay.steps) == 2
    envs.close()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_every_rank_stands_on_its_own_rungs_of_the_ladder(rank):
    config = Config().changed({"exploration.kind": "ladder", "env.num_envs": 4})
    ladder = 0.4 ** (1 + 7 * np.arange(12) / 11)
    assert make_pace(config, rank=rank, world_size=3).epsilon(500) == pytest.approx(
        ladder[4 * rank : 4 * rank + 4]
    )


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
