"""The optimizers, of one flat parameter: element by element, each is that of the layers apart."""

from __future__ import annotations

import torch

from hvd_dqn.config import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, whole: torch.nn.Parameter, *, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of these settings."""
    if config.name == "radam":
        return torch.optim.RAdam([whole], lr=learning_rate, eps=config.adam_eps)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(
            [whole],
            lr=learning_rate,
            alpha=config.rmsprop_decay,
            eps=config.rmsprop_eps,
            centered=True,
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        [whole],
        lr=learning_rate,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
