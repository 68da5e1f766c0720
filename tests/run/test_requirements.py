"""Spaces that differ between ranks are named on all of them."""

import gymnasium as gym
import numpy as np
import pytest

from hvd_dqn.common.errors import AgreedError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.run.requirements import require_same_spaces
from tests.envs.scripted import ScriptedSimulators

VECTORS = gym.spaces.Box(-1, 1, (4,), np.float32)
ONE_WIDER = np.array([1, 1, 1, 1.5], np.float32)
THREE = gym.spaces.Discrete(3)
BITS = gym.spaces.Box(0, 1, (4,), np.bool_)
LOW = -np.ones(4, np.float32)


class TwoRanks(LocalCommunicator):
    """The root of two ranks, the other of which gathers what `sends` says."""

    sends = None
    gathers = 0

    def gather(self, value):
        self.gathers += 1
        return [value, self.sends]


class Keeper(LocalCommunicator):
    """Keeps what it gathers."""

    def gather(self, value):
        self.kept = value
        return [value]


def envs_of(observations, actions=THREE):
    simulators = ScriptedSimulators(observations, [[None]])
    simulators.action_space = actions
    return VectorEnvironment(simulators, episode_seed=lambda copy, number: 0)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            (gym.spaces.Box(-1, 1, (5,), np.float32),),
            r"\(4,\), float32\) on rank 0 .*\(5,\), float",
        ),
        ((gym.spaces.Box(-1, 1, (4,), np.float64),), r"float32\) on rank 0 .*float64\) on rank 1"),
        ((gym.spaces.Box(-2, 2, (4,), np.float32),), r"Box\(-1.0, .* and Box\(-2.0"),
        ((gym.spaces.Box(LOW, ONE_WIDER, dtype=np.float32),), r"observation space is .* rank 1"),
        (
            (VECTORS, gym.spaces.Discrete(4)),
            r"action space is Discrete\(3\).*Discrete\(4\) on rank 1",
        ),
        (
            (VECTORS, gym.spaces.Discrete(3, start=1)),
            r"Discrete\(3\).*Discrete\(3, start=1\) on ran",
        ),
    ],
)
def test_another_space_on_another_rank_is_refused(other, said):
    comm, keeper = TwoRanks(), Keeper()
    require_same_spaces(keeper, envs_of(*other))
    comm.sends = keeper.kept
    with pytest.raises(AgreedError, match=said) as caught:
        require_same_spaces(comm, envs_of(VECTORS))
    assert "\n" not in str(caught.value)


def test_another_space_in_evaluation_is_refused():
    with pytest.raises(AgreedError, match="the environments differ: the observation"):
        require_same_spaces(LocalCommunicator(), envs_of(VECTORS), envs_of(BITS))


def test_bounds_that_the_text_leaves_out_are_compared():
    high = np.ones((40, 40), np.float32)
    wider = high.copy()
    wider[20, 20] = 2
    both = [gym.spaces.Box(-high, bound, dtype=np.float32) for bound in (high, wider)]
    assert str(both[0]).count("2.") == 0
    comm, keeper = TwoRanks(), Keeper()
    require_same_spaces(keeper, envs_of(both[1]))
    comm.sends = keeper.kept
    with pytest.raises(AgreedError, match="on rank 1"):
        require_same_spaces(comm, envs_of(both[0]))


def test_equal_spaces_are_accepted():
    comm, keeper = TwoRanks(), Keeper()
    require_same_spaces(keeper, envs_of(VECTORS), envs_of(VECTORS))
    comm.sends = keeper.kept
    require_same_spaces(comm, envs_of(VECTORS), envs_of(VECTORS))
    assert comm.gathers == 1, "they were compared"
