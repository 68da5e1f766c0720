"""Optimizers of one flat parameter. They work element by element, so the result is the same as with
one parameter per layer.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import adam

from hvd_dqn.config import OptimizerConfig

_BETAS = 0.9, 0.999


class Optimizer(Protocol):
    """Steps the parameters that it was made for.

    Its state holds averages [P] and the number of steps [], by name, all zero before the first
    step. The tensors stay in place, and changing them changes the next step.
    """

    state: dict[str, Tensor]

    def step(self, rate: float) -> None:
        """Change the parameters by the gradients, with this learning rate."""
        ...


def make_optimizer(config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> Optimizer:
    """Make the optimizer of `config` for `parameters` [P] and their `gradients` [P]."""
    if config.name in ("adam", "adamw"):
        return _FusedAdam(config, parameters, gradients)
    return _TorchOptimizer(config, parameters, gradients)


class _FusedAdam:
    """Adam and AdamW by torch's fused function. torch's classes would add half the time of a small
    network's arithmetic, and import torch's compiler, which takes a second at every start.
    """

    def __init__(self, config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> None:
        self.state = {
            "step": torch.zeros((), dtype=torch.float32, device=parameters.device),
            "exp_avg": torch.zeros_like(parameters),
            "exp_avg_sq": torch.zeros_like(parameters),
        }
        self._config = config
        self._parameters, self._gradients = parameters, gradients

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """See `Optimizer.step`."""
        adam.adam(
            [self._parameters],
            [self._gradients],
            [self.state["exp_avg"]],
            [self.state["exp_avg_sq"]],
            [],
            [self.state["step"]],
            fused=True,
            decoupled_weight_decay=self._config.name == "adamw",
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=self._config.weight_decay,
            eps=self._config.adam_eps,
            maximize=False,
        )


class _TorchOptimizer:
    """An optimizer class of torch."""

    def __init__(self, config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> None:
        whole = torch.nn.Parameter(parameters)
        whole.grad = gradients
        self._optimizer = _torch_optimizer(config, whole)
        (self._group,) = self._optimizer.param_groups
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a capturable optimizer that is not captured
            self.step(0.0)  # creates the state
        self.state: dict[str, Tensor] = self._optimizer.state[whole]
        for value in self.state.values():
            value.zero_()

    def step(self, rate: float) -> None:
        """See `Optimizer.step`."""
        self._group["lr"] = rate
        self._optimizer.step()


def _torch_optimizer(config: OptimizerConfig, whole: torch.nn.Parameter) -> torch.optim.Optimizer:
    capturable = config.cuda_graph and whole.is_cuda
    if config.name == "radam":
        return torch.optim.RAdam([whole], eps=config.adam_eps, betas=_BETAS, capturable=capturable)
    return torch.optim.RMSprop(
        [whole],
        alpha=config.rmsprop_decay,
        eps=config.rmsprop_eps,
        centered=True,
        capturable=capturable,
    )
