"""`hvd-dqn train` under real launchers: small runs, and every kind of invalid input."""

from __future__ import annotations

import json
import sys

import pytest

from tests.launching import hvd_dqn, launch

pytestmark = pytest.mark.multirank

SMALL = [
    "--total-env-steps",
    "1200",
    "--learning-starts-env-steps",
    "200",
    "--network.hidden-sizes",
    "32",
    "--evaluation.period-env-steps",
    "500",
    "--evaluation.episodes",
    "4",
    "--evaluation.final-episodes",
    "6",
    "--logging.period-env-steps",
    "300",
]

FAULTY = ["--env.id", "tests.envs.toy:ToyFaulty-v0", "--env.kwargs"]


@pytest.mark.parametrize(
    ("launcher", "ranks", "backend"),
    [
        ("none", 1, "local"),
        *(("horovodrun", ranks, "horovod") for ranks in (1, 2, 3)),
        *(("mpirun", 2, backend) for backend in ("horovod", "mpi")),
    ],
)
def test_a_small_run(tmp_path, launcher, ranks, backend):
    run_dir = tmp_path / "run"
    arguments = ["train", "cartpole", *SMALL, "--run-dir", str(run_dir)]
    if backend == "mpi":
        arguments += ["--distributed.backend", "mpi"]
    done = hvd_dqn(*arguments, launcher=launcher, ranks=ranks)
    assert done.code == 0, done.output
    assert len(done.lines("greedy episodes ·")) == 1
    assert str(run_dir) in done.lines("greedy episodes ·")[0]
    facts = json.loads((run_dir / "run.json").read_text())
    assert (facts["world_size"], facts["backend"]) == (ranks, backend)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["env_steps"] >= 1200
    assert records[-1]["updates"] > 0
    assert records[-1]["closing/episodes"] == 6
    losses = [record["loss/td_huber"] for record in records if "loss/td_huber" in record]
    assert losses
    assert all(
        record["distributed/drift_max"] == 0
        for record in records
        if "speed/env_steps_per_second" in record
    )
    assert (run_dir / "plots" / "learning_curve.png").stat().st_size > 10_000
    assert list((run_dir / "tensorboard").iterdir())
    assert not list(run_dir.glob("crash*"))

    judged = hvd_dqn("evaluate", str(run_dir), "--episodes", "7", "--json", launcher="none")
    assert judged.code == 0, judged.output
    assert len(json.loads(judged.output)["returns"]) == 7


def test_evaluation_plays_the_same_episodes_on_any_number_of_ranks(tmp_path):
    run_dir = tmp_path / "run"
    arguments = ["train", "cartpole", *SMALL, "--run-dir", str(run_dir)]
    assert hvd_dqn(*arguments, launcher="none").code == 0
    returns = []
    for launcher, ranks in (("none", 1), ("mpirun", 2), ("horovodrun", 3)):
        arguments = ["evaluate", str(run_dir), "--episodes", "11", "--json"]
        done = hvd_dqn(*arguments, launcher=launcher, ranks=ranks)
        assert done.code == 0, done.output
        (line,) = done.lines('"returns"')
        returns.append(sorted(json.loads(line[line.index("{") :])["returns"]))
    assert returns[0] == returns[1] == returns[2]
    assert len(set(returns[0])) > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cartpol"], ["unknown preset 'cartpol'"]),
        (["cartpole", "--replay.capacit", "3"], ["replay.capacit"]),
        (["cartpole", "--seed", "x"], ["'x'"]),
        (["cartpole", "--objective.gamma", "7"], ["objective.gamma = 7.0", "between 0 and 1"]),
        (["cartpole", "--env.id", "NoSuchThing-v0"], ["NoSuchThing"]),
        (["cartpole", "--env.id", "tests.envs.toy:ToyUnbounded-v0"], ["is not bounded"]),
        (["cartpole", "--env.id", "tests.envs.toy:ToySequenced-v0"], ["a Sequence"]),
        (["cartpole", "--device", "cuda"], ["no GPU"]),
        (["cartpole", "--distributed.backend", "local"], ["strangers"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ranks", [2])
def test_invalid_input_is_reported_once_and_ends_every_rank(tmp_path, arguments, words, ranks):
    if "cuda" in arguments:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
    run_dir = tmp_path / "run"
    done = hvd_dqn("train", *arguments, "--run-dir", str(run_dir), ranks=ranks)
    assert_refused(done, words)
    assert not run_dir.exists()


@pytest.mark.parametrize("launcher", ["none", "mpirun"])
def test_a_run_directory_that_cannot_be_used(tmp_path, launcher):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("")
    cases = [(taken, "is not empty"), (file, "is a file"), ("/proc/runs/x", "cannot be")]
    for path, word in cases:
        done = hvd_dqn("train", "cartpole", *SMALL, "--run-dir", str(path), launcher=launcher)
        assert_refused(done, [str(path), word])
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"]


def test_different_configs_on_different_ranks(tmp_path):
    base = [
        sys.executable,
        "-m",
        "hvd_dqn",
        "train",
        "cartpole",
        *SMALL,
        "--run-dir",
        str(tmp_path / "run"),
    ]
    done = launch(
        [*base[1:], "--seed", "1", ":", "-np", "1", *base, "--seed", "2"],
        launcher="mpirun-mpmd",
        ranks=1,
    )
    assert_refused(done, ["seed is 1 on rank 0 and 2 on rank 1"])
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_is_reported_by_one_rank(tmp_path):
    base = [
        sys.executable,
        "-m",
        "hvd_dqn",
        "train",
        "cartpole",
        *SMALL,
        "--run-dir",
        str(tmp_path / "run"),
    ]
    done = launch(
        [*base[1:], ":", "-np", "1", *base, "--replay.batch-size", "-4"],
        launcher="mpirun-mpmd",
        ranks=1,
    )
    assert_refused(done, ["rank 1 on", "replay.batch-size = -4"])
    assert not (tmp_path / "run").exists()


def test_different_backends_on_different_ranks(tmp_path):
    run = ["--run-dir", str(tmp_path / "run")]
    base = [sys.executable, "-m", "hvd_dqn", "train", "cartpole", *SMALL, *run]
    other = [*base, "--distributed.backend", "mpi"]
    done = launch([*base[1:], ":", "-np", "1", *other], launcher="mpirun-mpmd", ranks=1)
    assert_refused(done, ["distributed.backend is 'auto' on rank 0 and 'mpi' on rank 1"])
    broken = [*base, "--seed", "x"]
    done = launch([*other[1:], ":", "-np", "1", *broken], launcher="mpirun-mpmd", ranks=1)
    assert_refused(done, ["rank 1 on", "'x'"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('libmpi.so.12: cannot open shared object file')", ["libmpi.so.12"]),
        ("print('Extension horovod.torch has not been built')", ["has not been built"]),
    ],
)
def test_a_launcher_without_a_working_horovod(tmp_path, source, words):
    package = tmp_path / "broken" / "horovod" / "torch"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text(source)
    run_dir = tmp_path / "run"
    done = hvd_dqn(
        "train", "cartpole", *SMALL, "--run-dir", str(run_dir), launcher="mpirun",
        PYTHONPATH=str(package.parent.parent),
    )  # fmt: skip
    assert_refused(done, [*words, "hvd-dqn build-horovod"])
    assert not run_dir.exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_nan_on_one_rank_stops_all_at_the_same_update(tmp_path, rank):
    run_dir = tmp_path / "run"
    fault = json.dumps({"fault": "nan", "after": 30, "rank": rank})
    done = hvd_dqn("train", "cartpole", *SMALL, *FAULTY, fault, "--run-dir", str(run_dir), ranks=3)
    assert done.code == 1, done.output
    warning, line = done.lines("hvd-dqn: ")
    assert f"of rank {rank}: the reward of step" in warning
    assert "not finite" in line
    assert f"rank {rank} " in line
    assert "at update" in line
    judged = hvd_dqn("evaluate", str(run_dir), "--episodes", "2", launcher="none")
    assert judged.code == 0, f"the last good network is kept: {judged.output}"


@pytest.mark.parametrize("rank", [0, 1])
def test_an_environment_that_raises_ends_every_rank_and_names_its_own(tmp_path, rank):
    run_dir = tmp_path / "run"
    fault = json.dumps({"fault": "raise", "after": 30, "rank": rank})
    done = hvd_dqn("train", "cartpole", *SMALL, *FAULTY, fault, "--run-dir", str(run_dir))
    assert done.code == 1, done.output
    assert done.seconds < 30
    (line,) = done.lines("hvd-dqn: ")
    assert f"rank {rank} on" in line
    assert "RuntimeError: the simulator broke" in line
    assert "the simulator broke" in (run_dir / f"crash-rank-{rank}.txt").read_text()


def assert_refused(done, words):
    """Exit code 2, within 30 seconds, with one line from one rank."""
    assert done.code == 2, done.output
    assert done.seconds < 30
    lines = done.lines("hvd-dqn: ")
    assert len(lines) == 1, done.output
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in done.output
