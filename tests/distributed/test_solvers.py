"""Solver ranks under a real mpirun: the split, the numbers, faults, and resumed runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.solvers import Solvers
from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn, launch

multirank = pytest.mark.multirank
SECONDS = 400  # six processes may share two cores with others


def config_file(path: Path, **changes) -> Path:
    settings = {
        "total_env_steps": 400,
        "learning_starts_env_steps": 100,
        "updates_per_iteration": 1,
        "checkpoint.period_env_steps": 100,
        "env.num_envs": 1,
        "evaluation.period_env_steps": 200,
        "evaluation.episodes": 2,
        "evaluation.final_episodes": 2,
        "evaluation.envs": "training",
    }
    path.write_text(small_config().changed(settings | changes).to_json())
    return path


def ring(tmp_path: Path, **kwargs) -> dict[str, object]:
    given = {"strike": str(tmp_path / "strike")} | kwargs
    return {
        "env.id": "tests.envs.spmd:Ring",
        "env.kwargs": json.dumps(given),
        "env.ranks_per_env": 2,
    }


def train(config: Path, run_dir: Path, *options: str, ranks: int):
    arguments = ["train", "--config", str(config), "--run-dir", str(run_dir), *options]
    return hvd_dqn(*arguments, ranks=ranks, timeout=SECONDS)


@pytest.mark.parametrize(
    ("ranks", "counts"), [(1, "7"), (6, "7"), (7, ""), (8, "7 or 14"), (14, ""), (20, "14 or 21")]
)
def test_which_numbers_of_ranks_can_be_divided(ranks, counts):
    solvers = Solvers(2, 3, print)
    if not counts:
        solvers.require(ranks)
        return
    with pytest.raises(UserError, match=rf"has {ranks} ranks, .* 1 \+ 2·3 = 7 .*: start {counts} "):
        solvers.require(ranks)


def test_without_an_mpi_launcher_it_says_how_to_start(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"not started by an MPI launcher: .*mpirun -np 5 "):
        connect("auto", None, Solvers(2, 2, print))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(UserError, match="a launcher of torch"):
        connect("auto", None, Solvers(2, 2, print))


@multirank
def test_a_run_on_solver_ranks_computes_what_a_run_without_them_does(tmp_path):
    """Two learners, each with one environment on two ranks; and two learners that hold them."""
    registered = {"env.id": "tests.envs.spmd:SpmdRing-v0"}  # Gymnasium copies its arguments
    config = config_file(tmp_path / "solvers.json", **(ring(tmp_path) | registered))
    done = train(config, tmp_path / "solvers", ranks=6)
    assert done.code == 0, done.output
    assert "2 ranks (horovod), 4 solver ranks" in done.output
    assert len(done.lines("a solver that talks")) == 4, "each rank of a group makes its part"
    alone = config_file(tmp_path / "alone.json", **{"env.id": "tests.envs.spmd:RingAlone"})
    done = train(alone, tmp_path / "alone", ranks=2)
    assert done.code == 0, done.output
    assert_equal(
        everything(tmp_path / "solvers/checkpoints"), everything(tmp_path / "alone/checkpoints")
    )


@multirank
def test_a_killed_solver_rank_ends_the_job_and_the_run_resumes_bit_for_bit(tmp_path):
    faulty = ring(tmp_path, fault="kill", after=150) | {"env.overlap_updates": True}
    config = config_file(tmp_path / "config.json", **faulty)
    assert train(config, tmp_path / "whole", ranks=6).code == 0
    (tmp_path / "strike").touch()
    done = train(config, tmp_path / "parted", ranks=6)
    assert done.code not in (0, 2), done.output
    assert not (tmp_path / "strike").exists(), "the fault happened"
    again = train(config, tmp_path / "parted", ranks=6)
    assert again.code == 0, again.output
    assert "resuming from" in again.output
    assert "started a new one" not in again.output, "the episodes were replayed"
    assert_equal(
        everything(tmp_path / "whole/checkpoints"), everything(tmp_path / "parted/checkpoints")
    )


@multirank
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("hang", ["rank 1, 2 of the job", "did not return from step() within 1 s"]),
        ("raise", ["solver rank 1 of 2 (rank 2 of the job", "the mesh is tangled", "rank 1 of"]),
    ],
)
def test_a_group_that_cannot_go_on_is_named_and_ends_the_job(tmp_path, fault, said):
    (tmp_path / "strike").touch()
    changes = {"env.step_seconds": 1.0, "env.restarts": 5}
    config = config_file(tmp_path / "config.json", **ring(tmp_path, fault=fault), **changes)
    done = train(config, tmp_path / "run", ranks=3)
    assert done.code == 1, done.output
    (line,) = done.lines("hvd-dqn: GroupLostError: copy 0 of rank 0")
    assert all(text.replace("rank 1, 2", "ranks 1, 2") in line for text in said), line


@multirank
@pytest.mark.parametrize("fault", ["late", "exit"])
def test_an_environment_that_raises_is_made_again_on_its_ranks(tmp_path, fault):
    """`exit`: on one rank, before the others wait for it."""
    (tmp_path / "strike").touch()
    size = 2 if fault == "late" else 1
    changes = {"env.restarts": 1, "env.ranks_per_env": size}
    config = config_file(
        tmp_path / "config.json", **(ring(tmp_path, fault=fault, rank=size - 1) | changes)
    )
    done = train(config, tmp_path / "run", ranks=1 + size)
    assert done.code == 0, done.output
    what = "ValueError: the mesh is tangled" if fault == "late" else "SystemExit: 0"
    (line,) = done.lines("0 restarts left")
    assert f"solver rank {size - 1} of {size} (rank {size} of the job" in line
    assert what in line
    assert len(done.lines("a solver that talks")) == 2 * size


@multirank
def test_what_cannot_run_is_refused_before_anything_is_created(tmp_path):
    config = config_file(tmp_path / "config.json", **ring(tmp_path))
    done = train(config, tmp_path / "run", ranks=4)
    assert done.code == 2, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert "the job has 4 ranks" in line
    assert "start 3 or 6 ranks" in line
    changes = ["--env.id", "tests.envs.toy:Identity", "--env.kwargs", "{}"]
    done = train(config, tmp_path / "run", *changes, ranks=3)
    assert done.code == 2, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert "give it an argument comm" in line
    assert not (tmp_path / "run").exists()


@multirank
def test_an_ordinary_environment_on_a_rank_of_its_own_and_a_dry_run(tmp_path):
    settings = {"env.id": "CartPole-v1", "env.num_envs": 2, "env.ranks_per_env": 1}
    config = config_file(tmp_path / "config.json", **settings)
    done = train(config, tmp_path / "run", "--dry-run", ranks=6)
    assert done.code == 0, done.output
    (line,) = done.lines("solver ranks")
    assert "1 for each of 2 environments per rank, 4 in all" in line
    assert train(config, tmp_path / "run", ranks=6).code == 0
    alone = config_file(tmp_path / "alone.json", **(settings | {"env.ranks_per_env": 0}))
    assert train(alone, tmp_path / "alone", ranks=2).code == 0
    assert_equal(
        everything(tmp_path / "run/checkpoints"), everything(tmp_path / "alone/checkpoints")
    )
    scores = []
    for name, ranks in (("run", 3), ("alone", 1)):
        words = ["evaluate", str(tmp_path / name), "--episodes", "3", "--json"]
        done = hvd_dqn(*words, ranks=ranks, timeout=SECONDS)
        assert done.code == 0, done.output
        scores.append(json.loads(done.lines('"returns"')[0])["returns"])
    assert scores[0] == scores[1], "an evaluation divides its ranks in the same way"


@multirank
def test_the_doctor_says_where_the_groups_are():
    words = ["doctor", "--backend", "mpi", "--num-envs", "1", "--ranks-per-env", "2"]
    done = hvd_dqn(*words, ranks=3, timeout=SECONDS)
    (line,) = done.lines("solver ranks")
    assert "groups of 2, 1 for each rank that learns, on its node" in " ".join(line.split())
    done = hvd_dqn(*words, ranks=4, timeout=SECONDS)
    assert done.code == 2
    assert "the job has 4 ranks" in done.lines("hvd-dqn: ")[0]


FROM_PYTHON = """
import hvd_dqn
small = {"env.num_envs": 1, "env.ranks_per_env": 1, "total_env_steps": 120, "logging.loggers": (),
         "learning_starts_env_steps": 60, "evaluation.episodes": 1, "evaluation.final_episodes": 1}
steps = [hvd_dqn.train("cartpole", small | {"seed": seed}, run_dir=f"run{seed}").summary
         for seed in (1, 2)]
try:
    hvd_dqn.train("cartpole", small | {"env.num_envs": 2})
except hvd_dqn.common.errors.UserError as error:
    print("refused:", error)
print("trained", [summary.progress.env_steps for summary in steps])
"""


@multirank
def test_training_twice_from_python_returns_on_learners_only(tmp_path):
    done = launch(["-c", FROM_PYTHON], ranks=2, cwd=tmp_path, timeout=SECONDS)
    assert done.code == 0, done.output
    assert done.lines("trained ") == ["trained [120, 120]"]
    (line,) = done.lines("refused: ")
    assert "were divided by an earlier call" in line
