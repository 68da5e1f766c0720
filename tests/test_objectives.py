"""The expected objective against autograd on an explicit formula."""

import gymnasium as gym
import pytest
import torch

from hvd_dqn.config import NetworkConfig, ObjectiveConfig
from hvd_dqn.networks import make_network
from hvd_dqn.objectives import ExpectedObjective
from hvd_dqn.structs import Batch

CPU = torch.device("cpu")


def networks():
    config = NetworkConfig(hidden_sizes=(16,))
    torch.manual_seed(0)
    return [
        make_network(config, obs_space=gym.spaces.Box(-1, 1, (3,)), num_actions=4, device=CPU)
        for _ in range(2)
    ]


def batch(size=8):
    generator = torch.Generator().manual_seed(1)
    return Batch(
        obs=torch.randn(size, 3, generator=generator),
        action=torch.randint(4, (size,), generator=generator),
        reward=torch.randn(size, generator=generator) * 3,
        discount=torch.tensor([0.9, 0.0] * (size // 2)),
        next_obs=torch.randn(size, 3, generator=generator),
        weight=torch.ones(size),
        slot=torch.arange(size),
    )


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_against_a_loop_over_samples(double, loss):
    online, target = networks()
    data = batch()
    terms = ExpectedObjective(ObjectiveConfig(double=double, loss=loss))(online, target, data)
    for i in range(8):
        q = online(data.obs[i : i + 1])[0]
        next_target = target(data.next_obs[i : i + 1])[0]
        chooser = online(data.next_obs[i : i + 1])[0] if double else next_target
        best = max(range(4), key=lambda a, values=chooser: values[a].item())
        goal = data.reward[i] + data.discount[i] * next_target[best]
        error = (goal - q[data.action[i]]).item()
        expected = error**2 / 2 if loss == "squared" or abs(error) <= 1 else abs(error) - 0.5
        assert terms.loss[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert terms.abs_td_error[i].item() == pytest.approx(abs(error), rel=1e-4, abs=1e-6)
        assert terms.value[i].item() == pytest.approx(q[data.action[i]].item(), rel=1e-5)


def test_gradients_flow_to_the_online_network_alone():
    online, target = networks()
    terms = ExpectedObjective(ObjectiveConfig())(online, target, batch())
    terms.loss.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in online.parameters())
    assert all(p.grad is None for p in target.parameters())


def test_double_and_max_differ_here():
    online, target = networks()
    results = [
        ExpectedObjective(ObjectiveConfig(double=d))(online, target, batch()).loss
        for d in (True, False)
    ]
    assert not torch.allclose(*results)
