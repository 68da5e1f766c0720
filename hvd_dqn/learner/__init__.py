"""The distributed update: gradients of this rank's batch, then the same step on every rank."""

from __future__ import annotations

from typing import Any

from hvd_dqn.config import DistributedConfig
from hvd_dqn.learner.base import Learner, LearnerStatistics, NonFiniteError, TargetUpdate
from hvd_dqn.learner.gradients import DelayedGradientsLearner, GradientAveragingLearner
from hvd_dqn.learner.parameters import ParameterAveragingLearner
from hvd_dqn.learner.rewards import RewardScaling
from hvd_dqn.learner.server import ParameterServerLearner

__all__ = [
    "DelayedGradientsLearner",
    "GradientAveragingLearner",
    "Learner",
    "LearnerStatistics",
    "NonFiniteError",
    "ParameterAveragingLearner",
    "ParameterServerLearner",
    "RewardScaling",
    "TargetUpdate",
    "make_learner",
]


def make_learner(
    distributed: DistributedConfig,
    *,
    prioritized: bool,
    scaling: RewardScaling | None = None,
    **common: Any,
) -> Learner:
    """Make the learner for `distributed.average`. Only averaged gradients have a `scaling`."""
    if distributed.average == "server":
        return ParameterServerLearner(**common)
    if distributed.average != "parameters":
        is_late = distributed.average == "delayed_gradients"
        kind = DelayedGradientsLearner if is_late else GradientAveragingLearner
        return kind(prioritized=prioritized, scaling=scaling, **common)
    return ParameterAveragingLearner(
        period_updates=distributed.average_period_updates,
        optimizer_state=distributed.average_optimizer_state,
        **common,
    )
