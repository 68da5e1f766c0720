"""Against tables worked out by hand."""

import pytest
import torch

from hvd_dqn.methods import losses


def test_td_target_by_hand():
    target = losses.td_target(
        reward=torch.tensor([0.5, -1.0, 2.0]),
        discount=torch.tensor([0.9, 0.0, 0.81]),
        next_value=torch.tensor([10.0, 99.0, -1.0]),
    )
    # terminated: 99 must not leak in
    torch.testing.assert_close(target, torch.tensor([9.5, -1.0, 1.19]))


def test_the_values_taken():
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert losses.taken(q, torch.tensor([1, 0, 1])).tolist() == [2.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("error", "huber", "squared"),
    [(0.0, 0.0, 0.0), (0.5, 0.125, 0.125), (-1.0, 0.5, 0.5), (3.0, 2.5, 4.5), (-4.0, 3.5, 8.0)],
)
def test_huber_and_squared_by_hand(error, huber, squared):
    value, target = torch.tensor([1.5]), torch.tensor([1.5 + error])
    assert losses.huber(value, target).item() == pytest.approx(huber)
    assert losses.squared(value, target).item() == pytest.approx(squared)


def test_huber_gradient_is_the_clipped_error():
    error = torch.tensor([-5.0, -0.3, 0.0, 0.7, 9.0], requires_grad=True)
    losses.huber(error, torch.zeros(5)).sum().backward()
    torch.testing.assert_close(error.grad, error.detach().clamp(-1, 1))


def test_double_values_the_online_choice_with_the_target():
    target = torch.tensor([[1.0, 9.0, 3.0], [4.0, 5.0, 6.0]])
    online = torch.tensor([[7.0, 0.0, 1.0], [0.0, 8.0, 1.0]])
    torch.testing.assert_close(losses.double_value(target, online), torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(losses.max_value(target), torch.tensor([9.0, 6.0]))
