"""`hvd-dqn evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hvd_dqn.command_line import parse, switches
from hvd_dqn.commands.together import together
from hvd_dqn.distributed.connect import connect
from hvd_dqn.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Play greedy episodes with the best network of a run."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's directory."""
    episodes: int = 100
    """How many, over all ranks."""
    seed: int = 0
    """Which episodes; none of them is one that the run was judged by."""
    json: bool = False
    """Print one JSON object with every return."""


def run(arguments: Sequence[str]) -> int:
    """Play episodes, shared by the ranks of this launch."""
    options = parse(EvaluateOptions, switches(arguments, "json"), program="hvd-dqn evaluate")
    problem = None
    if options.episodes < 1:
        problem = UserError(f"--episodes {options.episodes}", "must be 1 or more")
    comm = connect("auto", problem)

    def work() -> None:
        from hvd_dqn.tools.evaluate import evaluate_run

        saved, result = evaluate_run(options.run_dir, options.episodes, options.seed, comm)
        if not comm.is_root:
            return
        if options.json:
            print(
                json.dumps(
                    {
                        "checkpoint": str(saved.path),
                        "env_steps": saved.env_steps,
                        "mean": result.mean,
                        "std": result.std,
                        **result._asdict(),
                    }
                )
            )
        else:
            print(
                f"return {result.mean:.1f} ± {result.std:.1f} over {len(result.returns)} greedy "
                f"episodes · {saved.path}"
            )

    return together(comm, work)
