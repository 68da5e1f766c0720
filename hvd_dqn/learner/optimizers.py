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

    Its state holds averages [P] and perhaps the number of steps [], by name, all zero before the
    first step. The tensors stay in place, and changing them changes the next step.
    """

    state: dict[str, Tensor]

    def step(self, rate: float) -> None:
        """Change the parameters by the gradients, with this learning rate."""
        ...


def make_optimizer(config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> Optimizer:
    """Make the optimizer of `config` for `parameters` [P] and their `gradients` [P]."""
    if config.name in ("adam", "adamw"):
        return _FusedAdam(config, parameters, gradients)
    if config.name == "rmsprop":
        return _CentredRmsProp(config, parameters, gradients)
    return _TorchRAdam(config, parameters, gradients)


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


class _CentredRmsProp:
    """Centred RMSProp with ε² within the square root (Graves 2013, equations 38 to 41), as in Mnih
    et al. 2015 and dqn_zoo. torch's adds ε outside: near-constant gradients make its variance, a
    difference of rounded averages, negative and its root NaN.
    """

    def __init__(self, config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> None:
        self.state = {
            "square_avg": torch.zeros_like(parameters),
            "grad_avg": torch.zeros_like(parameters),
        }
        self._decay = config.rmsprop_decay
        # never 0 in float32, which would make 0 / 0 of a weight without gradients
        self._floor = max(config.rmsprop_eps**2, torch.finfo(torch.float32).tiny)
        self._parameters, self._gradients = parameters, gradients

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """See `Optimizer.step`."""
        square, mean, gradients = *self.state.values(), self._gradients
        square.mul_(self._decay).addcmul_(gradients, gradients, value=1 - self._decay)
        mean.mul_(self._decay).add_(gradients, alpha=1 - self._decay)
        variance = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0)
        self._parameters.addcdiv_(gradients, variance.add_(self._floor).sqrt_(), value=-rate)


class _TorchRAdam:
    """RAdam by torch's class."""

    def __init__(self, config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> None:
        whole = torch.nn.Parameter(parameters)
        whole.grad = gradients
        self._optimizer = torch.optim.RAdam(
            [whole],
            eps=config.adam_eps,
            betas=_BETAS,
            capturable=config.cuda_graph and whole.is_cuda,
        )
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
