"""Settings of torch and NumPy that the whole process shares, kept from environments.

Environments built on torch may set them for themselves: a default dtype, the number of threads, no
gradients. In this process they would be set for the learner. Random generators are not among them:
hvd_dqn draws from its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_dqn.envs.interface import warn


class _Setting(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


_SETTINGS = (
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's default device", torch.get_default_device, lambda _: _no_default_device()),
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(
        "torch's deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    _Setting(
        "torch's precision of matrix products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _Setting(
        "cuDNN's flags",
        lambda: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        lambda value: _set_cudnn(*value),
    ),
    _Setting("NumPy's handling of errors", np.geterr, lambda value: np.seterr(**value)),
)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore, and report, what changes within this context. Takes about 5 µs."""
    before = [setting.read() for setting in _SETTINGS]
    try:
        yield
    finally:
        for setting, value in zip(_SETTINGS, before, strict=True):
            now = setting.read()
            if now != value:
                setting.write(value)
                warn(
                    f"the environment changed {setting.name} from {value} to {now}, which would "
                    "change the training; it was restored. If the environment needs it, give it "
                    "processes of its own with --env.vectorization async"
                )


def _no_default_device() -> None:
    """Nothing in hvd_dqn sets one."""
    torch.set_default_device(None)


def _set_cudnn(deterministic: bool, benchmark: bool) -> None:
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = benchmark
