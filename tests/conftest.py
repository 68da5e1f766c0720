"""Make tests deterministic: fixed random numbers, and no GPU unless `-m gpu` asks for one."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch

# Fixed examples and no deadlines. `--hypothesis-profile default` searches for new examples.
hypothesis.settings.load_profile("ci")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs unless `-m gpu` asks for them: tests compare results bit for bit, which only CPUs
    promise.
    """
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Seed the global random generators, let torch use one thread, and restore the handlers of
    signals, so that no test depends on those that ran before it. With more threads, the small
    networks of tests take twice the time. A run that fails leaves signals ignored, and nohup
    ignores SIGHUP; programs that a test starts would inherit that.
    """
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
