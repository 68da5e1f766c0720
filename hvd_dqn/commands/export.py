"""`hvd-dqn export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.commands.options import OptionalFile, RunDir, parse
from hvd_dqn.common.errors import EXIT_OK

_EXAMPLES = (
    "hvd-dqn export runs/a",
    "hvd-dqn export runs/a --format torch --output policy.pt2",
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a run's policy as a program: stacked observations to action values, with what scales
    them, for any number of observations at once.
    """

    run_dir: RunDir
    """The run's directory."""
    format: Literal["onnx", "torch"] = "onnx"
    """ONNX, or torch's own (torch.export)."""
    network: str = "best"
    """best (by evaluation), newest, or the env steps of one of the networks kept."""
    output: OptionalFile = None
    """The file; by default policy.onnx or policy.pt2 in the run's directory."""
    observations: int = 500
    """How many observations of the policy's own episodes the file is checked on."""


def run(arguments: Sequence[str]) -> int:
    """Write, and check."""
    options = parse(ExportOptions, arguments, program="hvd-dqn export", examples=_EXAMPLES)
    from hvd_dqn.policy import load_policy
    from hvd_dqn.tools.export import export, recorded_observations

    policy = load_policy(options.run_dir, network=options.network)
    name = {"onnx": "policy.onnx", "torch": "policy.pt2"}[options.format]
    output = options.output or options.run_dir / name
    observations = recorded_observations(policy, max(2, options.observations))
    difference = export(policy, output, options.format, observations)
    print(
        f"{output}: action values as the policy's on {len(observations)} observations of its own "
        f"episodes, to {difference:.1e}"
    )
    return EXIT_OK
