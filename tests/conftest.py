"""Which tests see a GPU."""

from __future__ import annotations

import os
import re

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Those alone that are asked for as such (`-m gpu`): what all others check, bit for bit, is
    promised for CPUs.
    """
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
