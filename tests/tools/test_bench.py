"""Every bench, at toy size: what it measures is there, and nothing of how fast it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvd_dqn.command_line import parse_train
from hvd_dqn.errors import UserError
from hvd_dqn.stages import STAGES
from hvd_dqn.tools.bench.allreduce import fit, predicted_seconds
from hvd_dqn.tools.bench.compare import WORK as ZOO
from hvd_dqn.tools.bench.compare import our_words
from hvd_dqn.tools.bench.report import finish, number, spread
from hvd_dqn.tools.bench.scaling import efficiencies, rates, run_program
from tests.launching import hvd_dqn, launch

TINY = [
    "cartpole",
    "--network.hidden_sizes=16",
    "--logging.period_env_steps=48",
    "--learning_starts_env_steps=100",
    "--distributed.threads_per_rank=1",
]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.multirank)])
def test_training(tmp_path, ranks):
    file = tmp_path / "out/train.json"
    options = ["--records", "3", "--json", str(file), "--", *TINY]
    launcher = "none" if ranks == 1 else "horovodrun"
    done = hvd_dqn("bench", "train", *options, ranks=ranks, launcher=launcher, cwd=tmp_path)
    assert done.code == 0, done.output
    result = json.loads(file.read_text())
    assert result["ranks"] == ranks
    assert len(result["env_steps_per_second"]) == 3
    assert min(result["env_steps_per_second"] + result["updates_per_second"]) > 0
    assert set(result["shares"]) == set(STAGES)
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert result["transfer_share"] <= result["shares"]["averaging"]
    assert result["parameter_bytes"] > 4 * 16 * 16
    assert {"cpu", "cores", "date", "commit", "packages", "command"} <= set(result)
    assert "| env steps" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the run itself is removed"


def test_the_replay(tmp_path):
    file = tmp_path / "replay.json"
    done = hvd_dqn(
        *("bench", "replay", "--capacity", "2000", "--rounds", "3", "--json", str(file)),
        launcher="none",
    )
    assert done.code == 0, done.output
    rows = json.loads(file.read_text())["rows"]
    assert [(row["capacity"], row["prioritized"]) for row in rows] == [(2000, False), (2000, True)]
    assert all(len(row[name]) == 3 for row in rows for name in ("sample", "update", "copy"))
    assert done.output.count("| 2,000 |") == 2


@pytest.mark.multirank
@pytest.mark.parametrize(("launcher", "backend"), [("horovodrun", "horovod"), ("mpirun", "mpi")])
def test_sums(tmp_path, launcher, backend):
    file = tmp_path / "sums.json"
    options = ["--backend", backend, "--seconds", "0.01", "--json", str(file)]
    done = hvd_dqn("bench", "allreduce", *options, ranks=2, launcher=launcher)
    assert done.code == 0, done.output
    result = json.loads(file.read_text())
    assert result["backend"] == backend
    assert [row["bytes"] for row in result["sizes"]][::4] == [4, 1024, 262_144, 67_108_864]
    assert all(min(row["ours"] + row["mpi"]) > 0 for row in result["sizes"])
    alpha, beta = fit(result)
    assert alpha > 0
    assert beta >= 0


@pytest.mark.multirank
def test_scaling(tmp_path):
    file = tmp_path / "scaling.json"
    done = hvd_dqn(
        *("bench", "scaling", "--rounds", "1", "--records", "2", "--json", str(file)),
        *("--plot", str(tmp_path / "scaling.png"), "--", *TINY),
        launcher="none", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.output
    runs = json.loads(file.read_text())["runs"]
    what = [(run["mode"], run["ranks"], run["num_envs"], run["batch_size"]) for run in runs]
    assert what == [("weak", 1, 8, 64), ("weak", 2, 8, 64), ("strong", 2, 4, 32)]
    assert "| 1,024 |" in done.output, "predictions"
    assert (tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.multirank
def test_ways_of_averaging(tmp_path):
    file, place = tmp_path / "compare.json", tmp_path / "tmp"
    place.mkdir()
    done = hvd_dqn(
        *("bench", "compare", "--rounds", "1", "--records", "3", "--json", str(file), "--", *TINY),
        launcher="none", cwd=tmp_path, TMPDIR=str(place),
    )  # fmt: skip
    assert done.code == 0, done.output
    assert not list(place.rglob("run.json")), "no run is left behind"
    ways = json.loads(file.read_text())["ways"]
    assert sorted(run["ranks"] for run in ways) == [1] * 4 + [2] * 6
    assert len({run["name"] for run in ways}) == 6
    assert all(min(run["env_steps_per_second"]) > 0 for run in ways)


def test_efficiencies_are_those_of_a_round():
    def run(number, ranks, speeds):
        return {"round": number, "ranks": ranks, "mode": "weak", "env_steps_per_second": speeds}

    runs = [run(0, 1, [9.0, 10.0, 11.0]), run(0, 2, [10.0]), run(1, 1, [20.0]), run(1, 2, [36.0])]
    alone, two = rates(runs, 1, mode="weak"), rates(runs, 2, mode="weak")
    assert alone == {0: 10.0, 1: 20.0}
    assert efficiencies(two, 2, alone) == [0.5, 0.9]
    assert rates(runs, 2, mode="strong") == {}


def test_what_a_bench_launches_has_a_place_of_its_own_for_sessions(tmp_path, monkeypatch):
    sessions = "PRTE_MCA_prte_local_tmpdir_base"
    for name in (sessions, "PRTE_MCA_prte_tmpdir_base"):
        monkeypatch.delenv(name, raising=False)
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    launcher.chmod(0o755)
    code = f"""
import json, os, sys
place = os.environ["{sessions}"]
json.dump({{"place": place, "there": os.path.isdir(place)}}, open(sys.argv[1], "w"))
"""
    found = run_program(["-c", code], [], 2, str(launcher))
    assert found["there"]
    assert not Path(found["place"]).exists()


def test_cores_beside_each_other(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/cores.py"
    done = launch([str(script), "--turns", "8"], launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
    assert "of 4 pairs of turns: median" in done.output


@pytest.mark.multirank
def test_ways_of_summing_in_turn(tmp_path):
    file = tmp_path / "averaging.json"
    script = Path(__file__).parents[2] / "benchmarks/averaging.py"
    words = [str(script), "mlp", "--cycles", "2", "--json", str(file)]
    done = launch(words, launcher="mpirun", cwd=tmp_path)
    assert done.code == 0, done.output
    blocks = json.loads(file.read_text())["milliseconds"]
    assert list(blocks) == [
        *("alone", "no sum", "no sum, but waiting"),
        *("mpi, messages", "mpi, messages by a thread", "mpi, shared memory", "horovod"),
    ]
    assert all(len(rank) == 2 and min(rank) > 0 for ranks in blocks.values() for rank in ranks)


def test_our_options_are_the_others_work():
    config = parse_train(our_words(ZOO | {"num_envs": 8})).config
    assert config.env_steps_per_iteration(1) == ZOO["round_env_steps"] == 256
    assert config.updates_per_iteration == ZOO["round_updates"] == 128
    assert list(config.network.hidden_sizes) == ZOO["hidden_sizes"]
    assert config.optimizer.learning_rate == ZOO["learning_rate"]


def test_predictions_are_those_of_a_ring():
    sizes = [{"bytes": 4, "ours": [60e-6]}, {"bytes": 4_000_000, "ours": [60e-6 + 6e-3]}]
    alpha, beta = fit({"ranks": 4, "sizes": sizes})
    assert alpha == pytest.approx(10e-6)
    assert beta == pytest.approx(1e-9)
    assert predicted_seconds(alpha, beta, 4, 4_000_000) == pytest.approx(6.06e-3)
    assert predicted_seconds(alpha, beta, 1, 4_000_000) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench"], "the benches are train"),
        (["bench", "fly"], "bench fly"),
        (["bench", "train", "--records", "0"], "--records 0"),
        (["bench", "train", "--", "cartpol"], "unknown preset 'cartpol'"),
        (["bench", "replay", "--capacity", "10"], "--capacity 10"),
        (["bench", "replay", "--", "cartpole"], "takes no preset"),
        (["bench", "train", "--json", "/proc/x/y.json", "--", *TINY], "/proc/x/y.json"),
        (["bench", "allreduce"], "there is one rank"),
        (["bench", "scaling", "--launcher", "no-such-launcher"], "no-such-launcher"),
        (["bench", "scaling", "--plot", "a.gif"], "name it .png, .svg or .pdf"),
        (["bench", "compare", "--python", "/no/python", "--ranks", "0"], "make peers"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, words, said):
    done = hvd_dqn(*words, launcher="none", cwd=tmp_path)
    assert done.code == 2, done.output
    assert said in done.output.splitlines()[-1]


def test_figures():
    assert [number(x) for x in (1234.5, 12.345, 0.0012345)] == ["1,234", "12.3", "0.00123"]
    assert number(float("nan")) == "–"
    assert str(spread([3.0, 1.0, 2.0])) == "2 (1 … 3)"
    with pytest.raises(UserError, match="cannot be written"):
        finish("x", {}, Path("/proc/nothing/here.json"))


@pytest.mark.multirank
@pytest.mark.parametrize("bench", ["scaling", "compare"])
def test_what_starts_ranks_itself_is_not_started_on_ranks(bench):
    done = hvd_dqn("bench", bench, ranks=2)
    assert done.code == 2, done.output
    assert "starts its ranks itself" in done.output
