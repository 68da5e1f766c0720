"""`hvd-dqn evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import OptionalFile, RunDir, parse
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import require_writable
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.connect import connect

_EXAMPLES = (
    "hvd-dqn evaluate runs/a --episodes 100",
    "hvd-dqn evaluate runs/a --seeds 0 1 2 --epsilon 0.001 --output scores.json",
    "horovodrun -np 4 hvd-dqn evaluate runs/a",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Play whole games with a network of a run: mean, standard deviation, median and interquartile
    mean of the returns, with its bootstrap interval.
    """

    run_dir: RunDir
    """The run's directory."""
    network: str = "best"
    """best (by evaluation), newest, or the env steps of one of the networks kept."""
    episodes: int = 100
    """How many for each seed, over all ranks."""
    seeds: tuple[int, ...] = (0,)
    """Which episodes; none of them is one that the run was judged by."""
    epsilon: float = 0.0
    """Share of random actions; 0 is greedy."""
    atari_protocol: Literal["machado2018", "mnih2015"] | None = None
    """Atari only: another protocol than the run's."""
    output: OptionalFile = None
    """Write one JSON object with every return here."""
    json: bool = False
    """Print that object and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Play episodes, shared by the ranks of this launch."""
    options = parse(EvaluateOptions, arguments, program="hvd-dqn evaluate", examples=_EXAMPLES)
    problem = None
    if options.episodes < 1 or not options.seeds:
        problem = UserError(
            f"--episodes {options.episodes}", "must be 1 or more, of one seed or more"
        )
    if min(options.seeds, default=0) < 0:
        problem = UserError(f"--seeds {min(options.seeds)}", "must be 0 or more")
    if not 0 <= options.epsilon <= 1:
        problem = UserError(f"--epsilon {options.epsilon}", "must be between 0 and 1")
    comm = connect("auto", problem)

    def work() -> None:
        from hvd_dqn.tools.evaluate import Play, evaluate_run
        from hvd_dqn.tools.scores import score

        play = Play(
            network=options.network,
            episodes=options.episodes,
            seeds=options.seeds,
            epsilon=options.epsilon,
            atari_protocol=options.atari_protocol,
        )
        with agreement(comm):
            if comm.is_root:
                require_writable(options.output)
        saved, results = evaluate_run(options.run_dir, play, comm)
        if not comm.is_root:
            return
        returns = [value for result in results for value in result.returns]
        lengths = [value for result in results for value in result.lengths]
        total = score(returns)
        report = {
            "checkpoint": str(saved.path),
            "env_steps": saved.env_steps,
            **play._asdict(),
            "ranks": comm.world_size,
            **total._asdict(),
            "returns": returns,
            "lengths": lengths,
        }
        if options.output is not None:
            options.output.write_text(json.dumps(report) + "\n")
        if options.json:
            print(json.dumps(report))
            return
        how = f"{options.epsilon:g}-greedy" if options.epsilon else "greedy"
        print(f"return {total} · {len(returns)} {how} episodes · {saved.path}")
        if len(options.seeds) > 1:
            means = ", ".join(
                f"{seed}: {r.mean:.1f}" for seed, r in zip(options.seeds, results, strict=True)
            )
            print(f"means by seed · {means}")

    return run_on_all_ranks(comm, work)
