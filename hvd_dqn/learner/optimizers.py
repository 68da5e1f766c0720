"""The optimizers, of one flat parameter: element by element, each is that of the layers apart."""

from __future__ import annotations

import inspect
import warnings
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import adam

from hvd_dqn.config import OptimizerConfig

_BETAS = 0.9, 0.999


class Optimizer(Protocol):
    """Its state: averages [P] and the number of steps [], by name, all zero before the first. Its
    tensors stay where they are, and whoever changes them changes the next step.
    """

    state: dict[str, Tensor]

    def step(self, rate: float) -> None:
        """Change the parameters by the gradients, at this learning rate."""
        ...


def make_optimizer(config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> Optimizer:
    """The optimizer of these settings, for `parameters` [P] and their `gradients` [P]."""
    has_decay = "decoupled_weight_decay" in inspect.signature(adam.adam).parameters  # torch 2.7
    if config.name in ("adam", "adamw") and has_decay:
        return _Adam(config, parameters, gradients)
    return _OfTorch(config, parameters, gradients)


class _Adam:
    """torch's function, fused, without the class around it: that costs half as much as a small
    network's arithmetic, and imports torch's compiler, a second at every start.
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
        """See `Optimizer`."""
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


class _OfTorch:
    """One of torch's classes."""

    def __init__(self, config: OptimizerConfig, parameters: Tensor, gradients: Tensor) -> None:
        whole = torch.nn.Parameter(parameters)
        whole.grad = gradients
        self._optimizer = _of_torch(config, whole)
        (self._group,) = self._optimizer.param_groups
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a capturable optimizer that is not being captured
            self.step(0.0)  # makes the state
        self.state: dict[str, Tensor] = self._optimizer.state[whole]
        for value in self.state.values():
            value.zero_()

    def step(self, rate: float) -> None:
        """See `Optimizer`."""
        self._group["lr"] = rate
        self._optimizer.step()


def _of_torch(config: OptimizerConfig, whole: torch.nn.Parameter) -> torch.optim.Optimizer:
    capturable = config.cuda_graph and whole.is_cuda
    if config.name == "radam":
        return torch.optim.RAdam([whole], eps=config.adam_eps, betas=_BETAS, capturable=capturable)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(
            [whole],
            alpha=config.rmsprop_decay,
            eps=config.rmsprop_eps,
            centered=True,
            capturable=capturable,
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        [whole],
        betas=_BETAS,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
        capturable=capturable,
    )
