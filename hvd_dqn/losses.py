"""Pure per-sample functions: tensors in, [B] out."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def td_error(
    q: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_value: Tensor
) -> Tensor:
    """n-step TD error, [B], for q [B, A]; every other argument is [B].

    `discount` is γᵐ·(1 − terminated), so termination and n-step need no case here (Watkins 1989;
    Sutton & Barto 7.1).
    """
    target = (reward + discount * next_value).detach()
    return target - q.gather(1, action.unsqueeze(1)).squeeze(1)


def huber(error: Tensor) -> Tensor:
    """½·e² within |e| ≤ 1 and |e| − ½ beyond, [B]: the loss form of the clipped error of Mnih et
    al. 2015.
    """
    return functional.huber_loss(error, error.new_zeros(()).expand_as(error), reduction="none")


def squared(error: Tensor) -> Tensor:
    """½·e², [B]."""
    return 0.5 * error.square()


def max_value(next_q_target: Tensor) -> Tensor:
    """max over actions of the target network's values, [B], for [B, A] (Mnih et al. 2015)."""
    return next_q_target.max(dim=1).values


def double_value(next_q_target: Tensor, next_q_online: Tensor) -> Tensor:
    """The target network's value, [B], of the action the online network prefers (van Hasselt et al.
    2016, eq. 4).
    """
    return next_q_target.gather(1, next_q_online.argmax(dim=1, keepdim=True)).squeeze(1)
