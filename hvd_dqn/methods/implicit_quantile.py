"""IQN: the return's values at quantiles drawn for every update (Dabney et al. 2018b)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor, nn

from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ObjectiveConfig
from hvd_dqn.methods import losses
from hvd_dqn.methods.method import LossTerms, Method, refuse_other_losses
from hvd_dqn.methods.quantile import QuantileTargets, midpoints, quantile_terms
from hvd_dqn.networks import NetworkParts, QNetwork

_NUM_COSINES = 64


def implicit_quantile(config: ObjectiveConfig) -> Method:
    """Return the method `implicit_quantile`."""
    refuse_other_losses(config)
    return Method(
        make_network=functools.partial(
            ImplicitQuantileQNetwork, num_policy_taus=config.num_policy_taus
        ),
        make_objective=lambda generator: ImplicitQuantileObjective(config, generator),
        loss_name="loss/quantile_huber",
        draws_random_numbers=True,
    )


class ImplicitQuantileQNetwork(QNetwork):
    """`quantiles` are the return's values at given quantiles."""

    frequencies: Tensor
    policy_taus: Tensor

    def __init__(self, parts: NetworkParts, *, num_policy_taus: int) -> None:
        super().__init__(parts)
        self.embedding = nn.Sequential(nn.Linear(_NUM_COSINES, parts.num_features), nn.ReLU())
        self.register_buffer(
            "frequencies", math.pi * torch.arange(_NUM_COSINES).float(), persistent=False
        )
        self.register_buffer("policy_taus", midpoints(num_policy_taus), persistent=False)

    def quantiles(self, features: Tensor, taus: Tensor) -> Tensor:
        """Return values [B, A, K] at quantiles `taus` [B, K] for features [B, F] (Dabney et al.
        2018b, equation 4).
        """
        with self.arithmetic(taus.device):
            embedded = self.embedding(torch.cos(taus.unsqueeze(2) * self.frequencies))
            joint = (features.unsqueeze(1) * embedded).flatten(0, 1)
            values: Tensor = self.head(joint).float()
        return values.view(*taus.shape, -1).transpose(1, 2)

    def values(self, features: Tensor) -> Tensor:
        """Return action values [B, A] for features [B, F]: means over the policy's quantiles."""
        return self.quantiles(features, self.policy_taus.expand(features.shape[0], -1)).mean(dim=2)

    def forward(self, obs: Tensor) -> Tensor:
        """Return action values, [B, A]."""
        return self.masked(self.values(self.features(obs)), obs)


class ImplicitQuantileObjective:
    """The quantile Huber loss at drawn quantiles."""

    def __init__(self, config: ObjectiveConfig, generator: Generator) -> None:
        self._targets = QuantileTargets(config)
        self._num_taus = config.num_taus
        self._num_target_taus = config.num_target_taus
        self._generator = generator

    def __call__(
        self, online: ImplicitQuantileQNetwork, target: ImplicitQuantileQNetwork, batch: Batch
    ) -> LossTerms:
        """See `Objective`."""
        with torch.no_grad():
            features = target.features(batch.next_obs)
            next_quantiles = target.quantiles(features, self._draw(batch, self._num_target_taus))
            next_q = target.masked(target.values(features), batch.next_obs)
            goal = self._targets(online, target, batch, next_quantiles, next_q)
        taus = self._draw(batch, self._num_taus)
        values = online.quantiles(online.features(batch.obs), taus)
        return quantile_terms(losses.taken(values, batch.action), taus, goal)

    def _draw(self, batch: Batch, count: int) -> Tensor:
        return torch.rand(
            len(batch.action), count, generator=self._generator, device=batch.reward.device
        )
