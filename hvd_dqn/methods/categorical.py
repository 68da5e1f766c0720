"""C51: the return's probabilities of M fixed values (Bellemare et al. 2017)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods import losses
from hvd_dqn.methods.method import LossTerms, Method, refuse_other_losses
from hvd_dqn.networks import NetworkParts, QNetwork


def categorical(config: ObjectiveConfig) -> Method:
    """Return the method `categorical`. Raises `ConfigError` if Munchausen is set, too."""
    refuse_other_losses(config)
    if config.munchausen:
        config.refuse(
            "munchausen",
            True,
            "its soft bootstrap mixes the actions' distributions, each shifted by its own "
            "log-probability, and is published for expected and quantile values; choose another "
            "objective.distribution",
        )
    support = torch.linspace(config.v_min, config.v_max, config.num_atoms)
    return Method(
        num_outputs=config.num_atoms,
        make_network=functools.partial(CategoricalQNetwork, support=support),
        make_objective=lambda generator: CategoricalObjective(config),
        loss_name="loss/cross_entropy",
    )


class CategoricalQNetwork(QNetwork):
    """`outputs` are logits of the probabilities of M fixed values, `support` [M]."""

    support: Tensor

    def __init__(self, parts: NetworkParts, support: Tensor) -> None:
        super().__init__(parts)
        self.register_buffer("support", support, persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        """Return action values, [B, A]: expectations."""
        return self.masked(self.values(self.outputs(obs)), obs)

    def values(self, logits: Tensor) -> Tensor:
        """Return the expectations [B, A] of logits [B, A, M]."""
        return logits.softmax(dim=2) @ self.support


class CategoricalObjective:
    """The cross-entropy with the projected distribution of the next state.

    The priority is the Kullback-Leibler divergence, as in Rainbow (Hessel et al. 2018).
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self._double = config.double

    def __call__(
        self, online: CategoricalQNetwork, target: CategoricalQNetwork, batch: Batch
    ) -> LossTerms:
        """See `Objective`."""
        support = target.support
        with torch.no_grad():
            next_logits = target.outputs(batch.next_obs)
            if self._double:
                chooser = online(batch.next_obs)
            else:
                chooser = target.masked(target.values(next_logits), batch.next_obs)
            best = losses.taken(next_logits, chooser.argmax(dim=1)).softmax(dim=1)
            goal = losses.categorical_projection(best, support, batch.reward, batch.discount)
        logits = losses.taken(online.outputs(batch.obs), batch.action)
        loss = losses.cross_entropy(logits, goal)
        value = logits.detach().softmax(dim=1) @ support
        divergence = (loss.detach() - losses.entropy(goal)).clamp(min=0)
        return LossTerms(loss, (goal @ support - value).abs(), value, priority=divergence)
