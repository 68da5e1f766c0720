"""Multi-dimensional and continuous actions as numbers."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig, NetworkConfig, ObjectiveConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks.branches import Branches
from hvd_dqn.spaces.actions import ActionCodes, ActionError, best_actions, places_of
from hvd_dqn.spaces.description import actions_of, describe

COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)
SOURCES = [
    gym.spaces.MultiDiscrete([3, 2], start=[5, -1]),
    gym.spaces.MultiDiscrete([[2, 2], [1, 3]]),
    gym.spaces.MultiBinary(3),
    gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(3, start=4)]),
    gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float32),
    gym.spaces.Box(-2, 2, (), np.float64),
    gym.spaces.Box(np.array([0, 3]), np.array([2, 4]), dtype=np.int16),
]


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("joint", [1, 64])
def test_numbers_are_those_of_all_combinations(source, joint):
    codes = ActionCodes(source, bins=3, joint=joint)
    actions = [codes.action(code) for code in range(codes.n)]
    assert all(source.contains(action) for action in actions)
    assert len({str(action) for action in actions}) == codes.n
    assert actions_of(describe(codes)) == codes
    assert bool(codes.branches) == (codes.n > joint)
    assert len(codes.names()) == (sum(codes.counts) if codes.branches else codes.n)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_vector_environments_get_the_same_actions(source):
    codes = ActionCodes(source, bins=3, joint=64)
    chosen = np.arange(codes.n)[::-1]
    batch = codes.actions(chosen)
    assert gym.vector.utils.batch_space(source, int(codes.n)).contains(batch)
    singles = gym.vector.utils.iterate(gym.vector.utils.batch_space(source, int(codes.n)), batch)
    for code, single in zip(chosen, singles, strict=True):
        np.testing.assert_array_equal(single, codes.action(int(code)))


def test_bins_are_evenly_spaced_and_hold_the_bounds():
    box = gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float32)
    codes = ActionCodes(box, bins=3, joint=64)
    expected = list(itertools.product([-1, 0, 1], [0, 2.5, 5]))
    np.testing.assert_allclose(codes.decode(np.arange(9)), expected)
    assert codes.action(5).dtype == np.float32
    bang_bang = ActionCodes(box, bins=2, joint=1)
    np.testing.assert_allclose(bang_bang.decode(np.arange(4)), [(-1, 0), (-1, 5), (1, 0), (1, 5)])
    assert bang_bang.names() == ["0: -1", "0: 1", "1: 0", "1: 5"]


@given(counts=COUNTS, seed=st.integers(0, 99))
def test_the_best_combination_is_the_best_choice_in_each_dimension(counts, seed):
    """Against all combinations, in NumPy and in torch."""
    branches = tuple(counts)
    values = np.random.default_rng(seed).normal(size=(5, sum(counts))).astype(np.float32)
    everything = np.array(list(itertools.product(*map(range, counts))))
    starts = np.cumsum([0, *counts[:-1]])
    means = values[:, everything + starts].mean(axis=2)  # [5, combinations]
    np.testing.assert_array_equal(best_actions(values, branches), means.argmax(axis=1))
    network, tensor = Branches(branches), torch.from_numpy(values)
    best = network.value(tensor, network.best(tensor))
    np.testing.assert_allclose(best, means.max(axis=1), rtol=1e-5, atol=1e-6)
    for code in range(len(everything)):
        taken = network.value(tensor, network.choices(torch.full((5,), code)))
        np.testing.assert_allclose(taken, means[:, code], rtol=1e-5, atol=1e-6)
        assert places_of(code, branches) == (everything[code] + starts).tolist()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            gym.spaces.Box(-1, 1, (38,)),
            r"1,350,851,717,672,992,089 combinations.*--env.action-bins 2",
        ),
        (gym.spaces.Box(-np.inf, 1, (2,)), "not bounded"),
        (gym.spaces.Dict(a=gym.spaces.Discrete(2)), "turn it into one with a wrapper"),
        (gym.spaces.Tuple([gym.spaces.Box(-1, 1)]), "turn it into one with a wrapper"),
        (gym.spaces.Text(3), "turn it into one with a wrapper"),
    ],
)
def test_other_actions_are_refused_in_a_line(source, told):
    with pytest.raises(ActionError, match=told):
        ActionCodes(source, bins=3, joint=64)


class Reaching(gym.Env):
    """Pays for the distance of a two-dimensional action from a point, and checks its type."""

    def __init__(self, masked=False):
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        if masked:
            self.action_masks = lambda: np.ones(9)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), float(-abs(action[0] - 1) - abs(action[1])), False, True, {}


gym.register("Reaching-v0", entry_point=Reaching)


def made(**settings):
    config = EnvConfig(id="tests.spaces.test_actions:Reaching-v0", **settings)
    return make_vector_env(config, num_envs=3, episode_seed=lambda copy, number: number)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_get_their_own_actions(vectorization):
    envs = made(vectorization=vectorization)
    envs.reset()
    try:
        assert (envs.num_actions, envs.branches) == (9, ())
        rewards = envs.step(np.array([0, 4, 7])).reward  # (−1, −1), (0, 0), (1, 0)
    finally:
        envs.close()
    np.testing.assert_allclose(rewards, [-3, -1, 0])


def test_masks_are_of_whole_actions():
    envs = made(kwargs='{"masked": true}')
    assert envs.legal_actions(envs.reset()).shape == (3, 9)
    envs.close()
    with pytest.raises(UserError, match=r"raise --env\.joint-actions to 9"):
        made(kwargs='{"masked": true}', joint_actions=8)


@pytest.mark.parametrize(
    ("objective", "network", "told"),
    [
        ({"distribution": "quantile"}, {}, "distribution = 'quantile'.*use 'expected'"),
        ({"munchausen": True, "double": False}, {}, "munchausen"),
        ({}, {"dueling": True}, "dueling"),
    ],
)
def test_what_is_not_defined_for_branches_is_refused(objective, network, told):
    with pytest.raises(UserError, match=told) as error:
        make_network(
            NetworkConfig(**network),
            ObjectiveConfig(**objective),
            obs_space=gym.spaces.Box(0, 1, (2,)),
            num_actions=81,
            branches=(9, 9),
            device=torch.device("cpu"),
        )
    assert "--env.joint-actions" in str(error.value)
