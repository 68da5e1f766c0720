"""The methods that `objective.distribution` names, and the user's own."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import torch
from torch import Generator

from hvd_dqn.common.errors import ConfigError
from hvd_dqn.common.extensions import lookup
from hvd_dqn.config import Config, NetworkConfig, ObjectiveConfig
from hvd_dqn.methods.categorical import categorical
from hvd_dqn.methods.expected import expected
from hvd_dqn.methods.implicit_quantile import implicit_quantile
from hvd_dqn.methods.method import Method, Objective
from hvd_dqn.methods.quantile import quantile
from hvd_dqn.networks import QNetwork, build_network

METHODS: dict[str, Callable[[ObjectiveConfig], Method]] = {
    "expected": expected,
    "categorical": categorical,
    "quantile": quantile,
    "implicit_quantile": implicit_quantile,
}
"""A new method is one module with such a function, and one entry here."""


def method_of(config: ObjectiveConfig) -> Method:
    """Return the method that `objective.distribution` names: one of `METHODS`, or the user's
    `module:function`.

    Raises `ConfigError` for an unknown name, and if the method refuses the other settings.
    """
    method: object = lookup("objective.distribution", config.distribution, METHODS)(config)
    if not isinstance(method, Method):
        raise ConfigError(
            f"objective.distribution = {config.distribution!r}: must return a "
            f"hvd_dqn.methods.method.Method, and returns {type(method).__name__}"
        )
    return method


def require_method(config: Config) -> None:
    """Raise `ConfigError` if there is no such method, or if its passes cannot be compiled or
    recorded although this is asked for.
    """
    method = method_of(config.objective)
    fixed = [name for name in ("compile", "cuda_graph") if getattr(config.optimizer, name)]
    if method.draws_random_numbers and fixed:
        raise ConfigError(
            f"optimizer.{fixed[0].replace('_', '-')} = True: objective.distribution = "
            f"{config.objective.distribution!r} draws random numbers in the passes, which a "
            "compiled or recorded program cannot do; set it to False"
        )


def make_network(
    config: NetworkConfig,
    objective: ObjectiveConfig,
    *,
    obs_space: gym.spaces.Box,
    num_actions: int,
    branches: tuple[int, ...] = (),
    device: torch.device,
) -> QNetwork:
    """Return the network of these settings. With `branches`, it values the choices of each
    dimension of the actions. Initial weights come from torch's current random stream.

    Raises `ConfigError` if there is no such method or torso, or if the torso cannot take the
    observations, or the method these actions.
    """
    method = method_of(objective)
    if branches:
        _require_branches(config, objective)
    return build_network(
        config,
        method.make_network,
        num_outputs=method.num_outputs,
        obs_space=obs_space,
        num_actions=num_actions,
        branches=branches,
        device=device,
    )


def _require_branches(config: NetworkConfig, objective: ObjectiveConfig) -> None:
    """Raise `ConfigError` for what is not defined if each dimension has its own values."""
    joint = "give every combination its own value with a larger --env.joint-actions"
    if objective.distribution != "expected":
        objective.refuse(
            "distribution",
            objective.distribution,
            "the mean of several dimensions' distributions is not the distribution of the return; "
            f"use 'expected', or {joint}",
        )
    if objective.munchausen:
        objective.refuse(
            "munchausen", True, f"its policy is one over all combinations; leave it out, or {joint}"
        )
    if config.dueling:
        config.refuse(
            "dueling",
            True,
            "a mean over dimensions leaves the parts of the value and of the advantages open; "
            f"leave it out, or {joint}",
        )


def make_objective(config: ObjectiveConfig, generator: Generator) -> Objective:
    """Return the loss of these settings. `generator`, on the networks' device, draws quantiles."""
    return method_of(config).make_objective(generator)
