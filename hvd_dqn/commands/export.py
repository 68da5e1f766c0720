"""`hvd-dqn export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.commands.options import OptionalFile, RunDir, parse
from hvd_dqn.common.errors import EXIT_OK
from hvd_dqn.common.files import require_writable
from hvd_dqn.run.zoo import place_for_files

_EXAMPLES = (
    "hvd-dqn export runs/a",
    "hvd-dqn export runs/a --format torch --output policy.pt2",
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a policy as a program that maps stacked observations to Q-values, including their
    scaling, for any batch size. The action is the index of the highest Q-value, plus the start of
    the action space, which is in the file. The file is checked against the policy.
    """

    run_dir: RunDir
    """The run directory, or zoo:NAME."""
    format: Literal["onnx", "torch"] = "onnx"
    """ONNX, or a torch program (torch.export)."""
    network: str = "best"
    """Network to use: best (by evaluation), newest, or the env steps of a saved one."""
    output: OptionalFile = None
    """File to write; by default policy.onnx or policy.pt2 in the run directory, or
    in ./NAME for zoo:NAME."""
    observations: int = 500
    """Number of observations, from the policy's own episodes, to check the file on."""


def run(arguments: Sequence[str]) -> int:
    """Write the file and check it."""
    options = parse(ExportOptions, arguments, program="hvd-dqn export", examples=_EXAMPLES)
    from hvd_dqn.policy import load_policy
    from hvd_dqn.run.foreign_code import announce_environment_code
    from hvd_dqn.tools.export import export, recorded_observations

    policy = load_policy(options.run_dir, network=options.network)
    announce_environment_code(policy.config, options.run_dir)
    name = {"onnx": "policy.onnx", "torch": "policy.pt2"}[options.format]
    output = options.output or place_for_files(options.run_dir) / name
    file = require_writable(output)
    observations = recorded_observations(policy, max(2, options.observations))
    difference = export(policy, file, options.format, observations)
    print(
        f"{output}: Q-values match the policy's on {len(observations)} observations "
        f"(largest difference {difference:.1e})"
    )
    return EXIT_OK
