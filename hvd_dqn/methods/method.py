"""What a method consists of: the network's outputs, the action values and the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.networks import NetworkParts, QNetwork


class LossTerms(NamedTuple):
    """What an objective computes for each of B samples.

    loss [B], differentiable; abs_td_error [B], |TD error| of the expected return; value [B], the
    value of the action taken; priority [B], for prioritised replay. All but the loss are detached.
    """

    loss: Tensor
    abs_td_error: Tensor
    value: Tensor
    priority: Tensor


class Objective(Protocol):
    """The loss of a method."""

    def __call__(self, online: Any, target: Any, batch: Batch) -> LossTerms:
        """Return the terms of one batch. Gradients flow only to `online`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a run learns of the return, and by which loss.

    num_outputs: outputs of the head for each action, M. make_network: takes the network's parts,
    returns a `QNetwork`, whose `forward` returns action values [B, A]. make_objective: takes a
    generator on the networks' device, returns the loss. loss_name: the loss in the metrics, named
    by what it computes. draws_random_numbers: whether the networks or the objective draw random
    numbers in a forward pass; such passes cannot be compiled or recorded.
    """

    num_outputs: int = 1
    make_network: Callable[[NetworkParts], QNetwork] = QNetwork
    make_objective: Callable[[Generator], Objective]
    loss_name: str
    draws_random_numbers: bool = False


def refuse_other_losses(config: ObjectiveConfig) -> None:
    """Raise `ConfigError` if `objective.loss` is set for a method that does not use it."""
    if config.loss != "huber":
        config.refuse(
            "loss",
            config.loss,
            f"requires objective.distribution = 'expected'; {config.distribution!r} has its own "
            "loss",
        )
