"""Lets these tests import the scripts in `benchmarks/`, which import each other by name."""

import sys

from tests.benchmarks import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))
