"""The optimizers, of one flat parameter: element by element, each is that of the layers apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import adam

from hvd_dqn.config import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, whole: torch.nn.Parameter, *, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of these settings."""
    capturable = config.cuda_graph and whole.is_cuda
    if config.name == "radam":
        return torch.optim.RAdam(
            [whole], lr=learning_rate, eps=config.adam_eps, capturable=capturable
        )
    if config.name == "rmsprop":
        return torch.optim.RMSprop(
            [whole],
            lr=learning_rate,
            alpha=config.rmsprop_decay,
            eps=config.rmsprop_eps,
            centered=True,
            capturable=capturable,
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        [whole],
        lr=learning_rate,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
        capturable=capturable,
    )


def make_step(optimizer: torch.optim.Optimizer, whole: torch.nn.Parameter) -> Callable[[], None]:
    """`optimizer.step` for its one parameter, once there is a state. Adam's is torch's function
    without groups and hooks, which cost half as much as a small network's arithmetic.
    """
    (group,), state = optimizer.param_groups, optimizer.state[whole]
    fits = isinstance(optimizer, torch.optim.Adam) and "decoupled_weight_decay" in group
    if not fits:  # another, or a torch before 2.7
        return lambda: optimizer.step()
    beta1, beta2 = group["betas"]

    @torch.no_grad()
    def step() -> None:
        assert whole.grad is not None
        adam.adam(
            [whole],
            [whole.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    return step
