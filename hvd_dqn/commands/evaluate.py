"""`hvd-dqn evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hvd_dqn.commands.all_ranks import run_on_all_ranks
from hvd_dqn.commands.options import OptionalFile, RunDir, parse
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import replacing, require_writable
from hvd_dqn.common.numbers import number
from hvd_dqn.common.output import print_data
from hvd_dqn.config.loading import load_config
from hvd_dqn.config.section import Section, fraction, positive, ranged
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.solvers import Solvers
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.solver_ranks import solvers_of

if TYPE_CHECKING:
    from hvd_dqn.acting.evaluation import EvaluationResult
    from hvd_dqn.networks.saved import SavedNetwork
    from hvd_dqn.tools.evaluate import Play

_EXAMPLES = (
    "hvd-dqn evaluate runs/a --episodes 100",
    "hvd-dqn evaluate runs/a --seeds 0 1 2 --epsilon 0.001 --output scores.json",
    "horovodrun -np 4 hvd-dqn evaluate runs/a",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Section):
    """Play episodes with a network of a run. Prints the mean, standard deviation, median and
    interquartile mean of the returns, with the bootstrap interval of the latter.
    """

    prefix = "--"

    run_dir: RunDir
    """The run directory, or zoo:NAME."""
    network: str = "best"
    """`best` by evaluation, `newest`, or the env steps of a network that was kept."""
    episodes: int = positive(100)
    """Episodes for each seed, over all ranks."""
    seeds: tuple[int, ...] = ranged(
        (0,),
        lambda seeds: bool(seeds) and min(seeds) >= 0,
        "one or more integers, 0 or greater",
    )
    """Seeds of the episodes; these differ from all episodes of the run's own evaluations."""
    epsilon: float = fraction(0.0)
    """Share of random actions; 0 is greedy."""
    atari_protocol: Literal["machado2018", "mnih2015"] | None = None
    """Atari only: use this protocol instead of the run's."""
    output: OptionalFile = None
    """Write the result, with every return, to this JSON file."""
    json: bool = False
    """Print the result as JSON, and nothing else."""


def run(arguments: Sequence[str]) -> int:
    """Play episodes, divided among the ranks of this launch."""
    problem: UserError | None = None
    options: EvaluateOptions | None = None
    try:
        options = parse(EvaluateOptions, arguments, program="hvd-dqn evaluate", examples=_EXAMPLES)
    except UserError as error:
        problem = error
    comm = connect("auto", problem, _solvers(options.run_dir) if options else None)
    assert options is not None, "connect raises the problem"
    return run_on_all_ranks(comm, lambda: _evaluate(comm, options))


def _solvers(run_dir: Path) -> Solvers | None:
    """Return the solver ranks that the run's environments need. What is wrong with `run_dir` is
    reported later, by all ranks.
    """
    try:
        return solvers_of(load_config(RunDirectory(run_dir).config_file).env)
    except (UserError, OSError):
        return None


def _evaluate(comm: Communicator, options: EvaluateOptions) -> None:
    from hvd_dqn.tools.evaluate import Play, evaluate_run

    play = Play(
        network=options.network,
        episodes=options.episodes,
        seeds=options.seeds,
        epsilon=options.epsilon,
        atari_protocol=options.atari_protocol,
    )
    output = options.output
    with agreement(comm):
        if comm.is_root and output is not None:
            output = require_writable(output)
    saved, results = evaluate_run(options.run_dir, play, comm)
    if comm.is_root:
        _report(options, play, saved, results, comm.world_size, output)


def _report(
    options: EvaluateOptions,
    play: Play,
    saved: SavedNetwork,
    results: list[EvaluationResult],
    ranks: int,
    output: Path | None,
) -> None:
    from hvd_dqn.tools.scores import score

    returns = [value for result in results for value in result.returns]
    total = score(returns)
    report = {
        "checkpoint": str(saved.path),
        "env_steps": saved.env_steps,
        **play._asdict(),
        "ranks": ranks,
        **total._asdict(),
        "returns": returns,
        "lengths": [value for result in results for value in result.lengths],
        "infos": [dict(result.infos) for result in results],
    }
    if output is not None:
        with replacing(output) as file:
            file.write_text(json.dumps(report) + "\n", encoding="utf-8")
    if options.json:
        print_data(json.dumps(report))
        return
    how = f"{options.epsilon:g}-greedy" if options.epsilon else "greedy"
    print(f"return {total} · {len(returns)} {how} episodes · {saved.path}")
    if len(options.seeds) > 1:
        means = ", ".join(
            f"{seed}: {number(r.mean)}" for seed, r in zip(options.seeds, results, strict=True)
        )
        print(f"means by seed · {means}")
    for seed, result in zip(options.seeds, results, strict=True):
        if result.infos:
            infos = ", ".join(f"{key} {number(mean)}" for key, mean in result.infos.items())
            print(f"means of infos, seed {seed} · {infos}")
