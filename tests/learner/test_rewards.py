"""Running normalisation of rewards."""

import numpy as np
import pytest
import torch

from hvd_dqn.config import Config, ConfigError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import RewardScaling
from tests.distributed import workers

CPU = torch.device("cpu")


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_scale_is_the_deviation_of_independent_returns(n_step):
    gamma, rng = 0.9, np.random.default_rng(0)
    rewards = 5 * rng.standard_normal((4000, n_step)) @ gamma ** np.arange(n_step)
    scaling = RewardScaling(gamma**n_step, CPU)
    assert scaling(torch.ones(3)).tolist() == [1, 1, 1]
    for batch in torch.from_numpy(rewards.astype(np.float32)).split(32):
        scaling.add(batch.square().mean().unsqueeze(0), len(batch))
    steps = np.arange(200)
    returns = 5 * rng.standard_normal((4000, 200)) @ gamma**steps
    assert 1 / scaling(torch.ones(1)).item() == pytest.approx(returns.std(), rel=0.05)


def test_the_size_of_rewards_does_not_matter_after_the_first_batch():
    parameters = []
    for size in (1.0, 1000.0):
        learner = workers.make_learner(LocalCommunicator(), seed=0, normalized=True)
        for number, batch in enumerate(workers.batches(20, 16)):
            learner.start(batch._replace(reward=size * batch.reward))
            if number == 0:  # not scaled yet
                learner._buffer.payload.zero_()
            learner.finish()
        parameters.append(learner.online_parameters.values)
    torch.testing.assert_close(*parameters, rtol=1e-4, atol=1e-6)


def test_no_rewards_stay_nothing():
    scaling = RewardScaling(0.99, CPU)
    scaling.add(torch.zeros(1), 8)
    assert scaling(torch.zeros(4)).tolist() == [0, 0, 0, 0]


def test_it_needs_averaged_gradients():
    changes = {"objective.normalize_rewards": True, "distributed.average": "server"}
    with pytest.raises(ConfigError, match=r"normalize-rewards.*set distributed.average"):
        Config().changed(changes)
