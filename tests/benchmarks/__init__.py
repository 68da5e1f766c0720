"""The scripts in `benchmarks/`, with tiny runs."""

from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = [
    "cartpole",
    "--network.hidden-sizes=16",
    "--logging.period-env-steps=48",
    "--learning-starts-env-steps=100",
    "--distributed.threads-per-rank=1",
]
