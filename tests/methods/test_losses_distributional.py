"""Distributional losses against hand tables, conservation laws and true quantiles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvd_dqn.methods import losses


def test_projection_by_hand():
    support = torch.tensor([-1.0, 0.0, 1.0])
    probabilities = torch.tensor([[0.25, 0.25, 0.5]] * 4)
    reward = torch.tensor([0.0, 0.5, 10.0, 0.2])
    discount = torch.tensor([1.0, 0.0, 1.0, 0.5])
    projected = losses.categorical_projection(probabilities, support, reward, discount)
    expected = [
        [0.25, 0.25, 0.5],  # nothing moves
        [0.0, 0.5, 0.5],  # all mass at 0.5
        [0.0, 0.0, 1.0],  # clipped at the top
        # atoms move to −0.3, 0.2 and 0.7
        [0.25 * 0.3, 0.25 * 0.7 + 0.25 * 0.8 + 0.5 * 0.3, 0.25 * 0.2 + 0.5 * 0.7],
    ]
    torch.testing.assert_close(projected, torch.tensor(expected))


def naive_projection(probabilities, support, reward, discount):
    """Algorithm 1 of Bellemare et al. 2017, with its floor and its ceiling, in a loop."""
    low, high, count = support[0], support[-1], len(support)
    width = (high - low) / (count - 1)
    out = np.zeros(count)
    for p, z in zip(probabilities, support, strict=True):
        place = (min(max(reward + discount * z, low), high) - low) / width
        below, above = int(np.floor(place)), int(np.ceil(place))
        if below == above:
            out[below] += p
        else:
            out[below] += p * (above - place)
            out[above] += p * (place - below)
    return out


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    atoms=st.integers(2, 60),
    reward=st.floats(-3, 3, width=32),
    discount=st.floats(0, 1, width=32),
)
def test_projection_is_the_papers_and_keeps_mass_and_mean(seed, atoms, reward, discount):
    rng = np.random.default_rng(seed)
    support = np.linspace(-10, 10, atoms)
    probabilities = rng.dirichlet(np.ones(atoms))
    ours = losses.categorical_projection(
        torch.tensor(probabilities).unsqueeze(0),
        torch.tensor(support),
        torch.tensor([reward], dtype=torch.float64),
        torch.tensor([discount], dtype=torch.float64),
    )[0].numpy()
    assert ours == pytest.approx(
        naive_projection(probabilities, support, reward, discount), abs=1e-9
    )
    assert ours.sum() == pytest.approx(1.0)
    moved = np.clip(reward + discount * support, -10, 10)
    assert ours @ support == pytest.approx(probabilities @ moved, abs=1e-6)


def test_cross_entropy_and_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    expected = [np.log(2), -(np.log(0.75) + np.log(0.25)) / 2]
    assert losses.cross_entropy(logits, target).tolist() == pytest.approx(expected)
    assert losses.entropy(target).tolist() == pytest.approx([0.0, np.log(2)])


def test_quantile_huber_by_hand():
    quantiles = torch.tensor([[0.0, 2.0]])
    taus = torch.tensor([0.25, 0.75])
    target = torch.tensor([[0.5, 4.0, -1.0]])
    # δ against 0: 0.5, 4, −1 → huber 0.125, 3.5, 0.5, times 0.25, 0.25, 0.75
    # δ against 2: −1.5, 2, −3 → huber 1, 1.5, 2.5, times 0.25, 0.75, 0.25
    first = (0.125 * 0.25 + 3.5 * 0.25 + 0.5 * 0.75) / 3
    second = (1.0 * 0.25 + 1.5 * 0.75 + 2.5 * 0.25) / 3
    loss, absolute = losses.quantile_huber(quantiles, taus, target)
    assert loss.tolist() == pytest.approx([first + second])
    assert absolute.tolist() == pytest.approx([(0.5 + 4 + 1 + 1.5 + 2 + 3) / 6])


@pytest.mark.parametrize("spread", [100.0])
def test_quantile_regression_finds_the_true_quantiles(spread):
    """Spread wide beside κ = 1, so that the Huber part hardly bends them."""
    generator = torch.Generator().manual_seed(0)
    taus = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    quantiles = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([quantiles], lr=2.0)
    rates = torch.linspace(2.0, 0.02, 2000)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = float(rate)
        samples = spread * torch.randn(1, 512, generator=generator)
        loss, _ = losses.quantile_huber(quantiles, taus, samples)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    true = spread * torch.distributions.Normal(0, 1).icdf(taus)
    torch.testing.assert_close(quantiles[0].detach(), true, rtol=0, atol=0.04 * spread)


def test_munchausen_by_definition():
    q = torch.tensor([[1.0, 1.1, 0.9], [0.0, 5.0, 0.0]])
    tau = 0.1
    policy = torch.exp(q / tau) / torch.exp(q / tau).sum(dim=1, keepdim=True)
    torch.testing.assert_close(losses.log_policy(q, tau), torch.log(policy))
    by_definition = (policy * (q - tau * torch.log(policy))).nan_to_num().sum(dim=1)
    torch.testing.assert_close(losses.soft_value(q, tau), by_definition)
    action = torch.tensor([0, 0])
    bonus = losses.munchausen_bonus(q, action, coefficient=0.9, temperature=tau, clip=-1.0)
    expected = [0.9 * tau * float(torch.log(policy[0, 0])), 0.9 * -1.0]
    assert bonus.tolist() == pytest.approx(expected, rel=1e-4)


def test_soft_values_do_not_overflow():
    q = torch.tensor([[1e4, -1e4]])
    assert losses.soft_value(q, 0.03).tolist() == [1e4]
    assert torch.isfinite(losses.log_policy(q, 0.03)).all()


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_a_reward_that_is_not_finite_is_not_the_end_of_the_support(bad, discount):
    probabilities, support = torch.full((3, 5), 0.2), torch.linspace(-1, 1, 5)
    reward = torch.tensor([0.5, bad, 3e38])
    goal = losses.categorical_projection(
        probabilities, support, reward, torch.tensor([discount] * 3)
    )
    assert torch.isnan(goal[1]).all()
    assert goal[0].sum() == pytest.approx(1)
    assert goal[2].tolist() == pytest.approx([0, 0, 0, 0, 1]), "finite ones are clamped"
