"""Losses and targets: pure functions of tensors, per sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """Return the n-step target of an action's value, [B]. All arguments are [B].

    `discount` is γᵐ·(1 − terminated), so termination and n-step need no case here (Watkins 1989;
    Sutton & Barto 7.1).
    """
    return torch.addcmul(reward, discount, next_value)


def huber(value: Tensor, target: Tensor) -> Tensor:
    """Return ½·e² for |e| ≤ 1 and |e| − ½ otherwise, with e = target − value, for each element. Its
    gradient is the clipped error of Mnih et al. 2015.
    """
    return functional.huber_loss(value, target, reduction="none")


def squared(value: Tensor, target: Tensor) -> Tensor:
    """Return ½·(target − value)² for each element."""
    return 0.5 * functional.mse_loss(value, target, reduction="none")


def max_value(next_q_target: Tensor) -> Tensor:
    """Return the maximum over actions, [B], of target values [B, A] (Mnih et al. 2015)."""
    return next_q_target.max(dim=1).values


def double_value(next_q_target: Tensor, next_q_online: Tensor) -> Tensor:
    """Return the target network's value, [B], of the action that the online network prefers, for
    values [B, A] of both (van Hasselt et al. 2016, eq. 4).
    """
    return next_q_target.gather(1, next_q_online.argmax(dim=1, keepdim=True)).squeeze(1)


def soft_value(next_q_target: Tensor, temperature: float) -> Tensor:
    """Return Σ π·(q − τ·log π) with π = softmax(q/τ), [B], for q [B, A]. This equals
    τ·logsumexp(q/τ) (Vieillard et al. 2020, equation 1).
    """
    return temperature * torch.logsumexp(next_q_target / temperature, dim=1)


def log_policy(q: Tensor, temperature: float) -> Tensor:
    """Return log softmax(q/τ), [B, A], for q [B, A]."""
    return functional.log_softmax(q / temperature, dim=1)


def munchausen_bonus(
    q_target: Tensor, action: Tensor, *, coefficient: float, temperature: float, clip: float
) -> Tensor:
    """Return α·max(τ·log π(a), l₀), [B], for values [B, A] of the observation in which `action` was
    taken (Vieillard et al. 2020, equation 2).
    """
    chosen = taken(log_policy(q_target, temperature), action)
    return coefficient * (temperature * chosen).clamp(min=clip)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """Select the entries of the actions [B]: [B, A] to [B], and [B, A, M] to [B, M]."""
    index = action.view(-1, *(1,) * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index).squeeze(1)


def categorical_projection(
    probabilities: Tensor, support: Tensor, reward: Tensor, discount: Tensor
) -> Tensor:
    """Return the distribution [B, M] of reward + discount·z on the evenly spaced `support` [M], for
    probabilities [B, M] of its values z. Each atom's mass goes to its two neighbours (Bellemare et
    al. 2017, algorithm 1). It is NaN if the reward is not finite.
    """
    low, high = support[0], support[-1]
    width = (high - low) / (len(support) - 1)
    moved = (reward.unsqueeze(1) + discount.unsqueeze(1) * support).clamp(low, high)
    moved = moved + (reward - reward).unsqueeze(1)  # x − x is 0 or NaN: no clamped infinity
    # [B, M′, M]: the part of moved atom M that goes to support atom M′ decreases over one width.
    share = 1 - (moved.unsqueeze(1) - support.view(1, -1, 1)).abs() / width
    return (share.clamp(0, 1) * probabilities.unsqueeze(1)).sum(dim=2)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return −Σ target·log softmax(logits), [B], for logits and target [B, M]."""
    return -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)


def entropy(probabilities: Tensor) -> Tensor:
    """Return −Σ p·log p, [B], for probabilities [B, M]."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(dim=1)


def quantile_huber(quantiles: Tensor, taus: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss [B] of quantile values [B, M] at `taus` [B, M] or [M] for target samples
    [B, M′], and the mean |δ| [B]. The loss is |τ − 1{δ < 0}|·huber(δ), summed over M and averaged
    over M′ (Dabney et al. 2018a, equation 10, κ = 1).
    """
    error = target.detach().unsqueeze(1) - quantiles.unsqueeze(2)  # [B, M, M′]
    asymmetry = (taus.unsqueeze(-1) - (error.detach() < 0).float()).abs()
    loss = (asymmetry * huber(error, torch.zeros_like(error))).mean(dim=2).sum(dim=1)
    return loss, error.detach().abs().mean(dim=(1, 2))
