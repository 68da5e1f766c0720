"""The expected objective against autograd on an explicit formula."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.common.structs import Batch, ReplayShare
from hvd_dqn.config import ConfigError, NetworkConfig, ObjectiveConfig
from hvd_dqn.methods.categorical import CategoricalObjective
from hvd_dqn.methods.expected import ExpectedObjective
from hvd_dqn.methods.implicit_quantile import ImplicitQuantileObjective
from hvd_dqn.methods.quantile import QuantileObjective
from hvd_dqn.methods.registry import make_network, make_objective, method_of
from tests.methods.test_losses_distributional import naive_projection

CPU = torch.device("cpu")
EXPECTED = ObjectiveConfig()


def networks(objective=EXPECTED):
    config = NetworkConfig(hidden_sizes=(16,))
    torch.manual_seed(0)
    return [
        make_network(
            config,
            objective,
            obs_space=gym.spaces.Box(-1, 1, (3,)),
            num_actions=4,
            device=CPU,
        )
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
        slot=np.arange(size),
        share=ReplayShare(),
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


def one(values, i):
    return values[i].item()


@pytest.mark.parametrize("double", [True, False])
def test_categorical_against_a_loop_over_samples(double):
    config = ObjectiveConfig(
        distribution="categorical", num_atoms=9, v_min=-4.0, v_max=4.0, double=double
    )
    online, target = networks(config)
    data = batch()
    terms = CategoricalObjective(config)(online, target, data)
    support = torch.linspace(-4, 4, 9)
    for i in range(8):
        obs, next_obs = data.obs[i : i + 1], data.next_obs[i : i + 1]
        next_p = target.outputs(next_obs)[0].softmax(1)
        chooser = online.outputs(next_obs)[0].softmax(1) if double else next_p
        best = (chooser @ support).argmax()
        goal = naive_projection(
            next_p[best].tolist(), support.numpy(), one(data.reward, i), one(data.discount, i)
        )
        p = online.outputs(obs)[0, data.action[i]].softmax(0).detach().numpy()
        assert one(terms.loss, i) == pytest.approx(-(goal * np.log(p)).sum(), rel=1e-4)
        positive = goal > 1e-12
        divergence = (goal[positive] * np.log(goal[positive] / p[positive])).sum()
        assert one(terms.priority, i) == pytest.approx(divergence, rel=1e-3, abs=1e-5)
        values = support.numpy()
        assert one(terms.value, i) == pytest.approx(p @ values, rel=1e-4, abs=1e-5)
        assert one(terms.abs_td_error, i) == pytest.approx(
            abs(goal @ values - p @ values), rel=1e-3
        )


def naive_quantile_loss(values, taus, goals):
    total = 0.0
    for tau, value in zip(taus, values, strict=True):
        for goal in goals:
            delta = goal - value
            huber = delta**2 / 2 if abs(delta) <= 1 else abs(delta) - 0.5
            total += abs(tau - (delta < 0)) * huber / len(goals)
    return total


def goals_of(i, data, next_z, next_q, q_target, chooser, munchausen):
    """Target samples of one transition by the formulas of the papers."""
    reward, discount = one(data.reward, i), one(data.discount, i)
    if not munchausen:
        return (reward + discount * next_z[chooser.argmax()]).tolist()
    tau = 0.03
    log_policy = torch.log_softmax(q_target / tau, 0)[data.action[i]]
    reward += 0.9 * max(tau * log_policy.item(), -1.0)
    next_log_policy = torch.log_softmax(next_q / tau, 0)
    soft = (next_log_policy.exp()[:, None] * (next_z - tau * next_log_policy[:, None])).sum(0)
    return (reward + discount * soft).tolist()


@pytest.mark.parametrize(("double", "munchausen"), [(True, False), (False, False), (False, True)])
def test_quantiles_against_a_loop_over_samples(double, munchausen):
    config = ObjectiveConfig(
        distribution="quantile", num_quantiles=5, double=double, munchausen=munchausen
    )
    online, target = networks(config)
    data = batch()
    terms = QuantileObjective(config, torch.device("cpu"))(online, target, data)
    for i in range(8):
        obs, next_obs = data.obs[i : i + 1], data.next_obs[i : i + 1]
        next_z = target.outputs(next_obs)[0]
        chooser = online(next_obs)[0] if double else next_z.mean(1)
        goals = goals_of(i, data, next_z, next_z.mean(1), target(obs)[0], chooser, munchausen)
        values = online.outputs(obs)[0, data.action[i]].tolist()
        expected = naive_quantile_loss(values, [0.1, 0.3, 0.5, 0.7, 0.9], goals)
        assert one(terms.loss, i) == pytest.approx(expected, rel=1e-4)
        spread = np.abs(np.subtract.outer(goals, values)).mean()
        assert one(terms.priority, i) == pytest.approx(spread, rel=1e-4)
        assert one(terms.value, i) == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("double", "munchausen"), [(True, False), (False, False), (False, True)])
def test_implicit_quantiles_against_a_loop_over_samples(double, munchausen):
    config = ObjectiveConfig(
        distribution="implicit_quantile",
        num_taus=4,
        num_target_taus=6,
        num_policy_taus=8,
        double=double,
        munchausen=munchausen,
    )
    online, target = networks(config)
    data = batch()
    terms = ImplicitQuantileObjective(config, torch.Generator().manual_seed(5))(
        online, target, data
    )
    generator = torch.Generator().manual_seed(5)
    target_taus = torch.rand(8, 6, generator=generator)
    taus = torch.rand(8, 4, generator=generator)
    for i in range(8):
        obs, next_obs = data.obs[i : i + 1], data.next_obs[i : i + 1]
        next_z = target.quantiles(target.features(next_obs), target_taus[i : i + 1])[0]
        next_q = target(next_obs)[0]
        chooser = online(next_obs)[0] if double else next_q
        goals = goals_of(i, data, next_z, next_q, target(obs)[0], chooser, munchausen)
        values = online.quantiles(online.features(obs), taus[i : i + 1])[0, data.action[i]]
        expected = naive_quantile_loss(values.tolist(), taus[i].tolist(), goals)
        assert one(terms.loss, i) == pytest.approx(expected, rel=1e-4)


def test_munchausen_expected_value_against_a_loop_over_samples():
    config = ObjectiveConfig(double=False, munchausen=True)
    online, target = networks(config)
    data = batch()
    terms = ExpectedObjective(config)(online, target, data)
    for i in range(8):
        next_q = target(data.next_obs[i : i + 1])[0]
        q_target = target(data.obs[i : i + 1])[0]
        (goal,) = goals_of(i, data, next_q[:, None], next_q, q_target, None, True)
        value = online(data.obs[i : i + 1])[0, data.action[i]].item()
        assert one(terms.abs_td_error, i) == pytest.approx(abs(goal - value), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("distribution", "kind"),
    [
        ("expected", ExpectedObjective),
        ("categorical", CategoricalObjective),
        ("quantile", QuantileObjective),
        ("implicit_quantile", ImplicitQuantileObjective),
    ],
)
def test_the_configuration_chooses_and_gradients_reach_every_parameter(distribution, kind):
    config = ObjectiveConfig(distribution=distribution)
    online, target = networks(config)
    objective = make_objective(config, torch.Generator().manual_seed(0))
    assert type(objective) is kind
    objective(online, target, batch()).loss.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in online.parameters())
    assert all(p.grad is None for p in target.parameters())


def nothing(config):
    """Not a method."""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"distribution": "gaussian"},
            "must be one of expected, categorical, quantile, implicit_quantile, or module:function",
        ),
        ({"distribution": "no_such_module:method"}, "no module 'no_such_module'"),
        ({"distribution": "tests.methods.test_objectives:nobody"}, "has no attribute 'nobody'"),
        ({"distribution": "tests.methods.test_objectives:one"}, "raises TypeError"),
        ({"distribution": "tests.methods.test_objectives:nothing"}, "must return .*Method"),
        ({"distribution": "tests.methods.test_objectives:CPU"}, "is not a function"),
        (
            {"distribution": "categorical", "munchausen": True, "double": False},
            "objective.munchausen = True: .* choose another objective.distribution",
        ),
        ({"distribution": "quantile", "loss": "squared"}, "'quantile' has its own"),
        ({"distribution": "implicit_quantile", "loss": "squared"}, "requires .*'expected'"),
    ],
)
def test_settings_that_no_method_takes_are_refused_in_one_line(settings, said):
    with pytest.raises(ConfigError, match=said) as caught:
        method_of(ObjectiveConfig(**settings))
    assert "\n" not in str(caught.value)
