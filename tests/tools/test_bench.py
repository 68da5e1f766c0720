"""Every bench, at toy size: what it measures is there, and nothing of how fast it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.common.stages import STAGES
from hvd_dqn.tools.bench.allreduce import SumModel, model_sums
from hvd_dqn.tools.bench.compare import WORK as ZOO
from hvd_dqn.tools.bench.compare import our_words
from hvd_dqn.tools.bench.report import finish, number, spread
from hvd_dqn.tools.bench.scaling import calibrate, efficiencies, predict, rates, run_program
from tests.launching import hvd_dqn, launch

ROOT = Path(__file__).parents[2]
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
@pytest.mark.parametrize(
    ("launcher", "backend", "beside", "plain"),
    [("horovodrun", "horovod", "auto", "MPI"), ("mpirun", "mpi", "gloo", "Gloo")],
)
def test_sums(tmp_path, launcher, backend, beside, plain):
    file = tmp_path / "sums.json"
    options = ["--backend", backend, "--beside", beside, "--seconds", "0.01", "--json", str(file)]
    done = hvd_dqn("bench", "allreduce", *options, ranks=2, launcher=launcher)
    assert done.code == 0, done.output
    result = json.loads(file.read_text())
    assert result["backend"] == backend
    assert [row["bytes"] for row in result["sizes"]][::4] == [4, 1024, 262_144, 67_108_864]
    for row in result["sizes"]:
        assert min(row["ours"] + row["plain"] + row["messages"]) > 0
    assert (result["plain"], result["plain_device"], result["hosts"]) == (plain, "cpu", 1)
    assert f"{plain}, cpu, µs" in done.output
    assert "α = " in done.output


@pytest.mark.multirank
def test_nccl_beside_no_gpu_is_refused_in_a_line():
    done = hvd_dqn("bench", "allreduce", "--backend", "mpi", "--beside", "nccl", ranks=2)
    assert done.code == 2, done.output
    assert len(done.lines("--beside nccl: rank")) == 1


@pytest.mark.multirank
def test_plain_sums_are_sums(tmp_path):
    program = """
import sys
import torch
from hvd_dqn.distributed.connect import connect
from hvd_dqn.tools.bench.plain import MpiSums, TorchSums
comm = connect("mpi")
for plain in (MpiSums(), TorchSums(comm, "gloo")):
    values = torch.tensor([comm.rank + 1.0, 10.0])
    plain.sum(values)
    here = torch.zeros(1)
    plain.exchange(torch.tensor([float(comm.rank)]), here)
    sys.stdout.write(f"{plain.name} {comm.rank} {values.tolist()} {here.tolist()}\\n")
comm.close()
"""
    done = launch(["-c", program], ranks=3, cwd=tmp_path)
    assert done.code == 0, done.output
    for name in ("MPI", "Gloo"):
        for rank, before in ((0, 2.0), (1, 0.0), (2, 1.0)):
            assert f"{name} {rank} [6.0, 30.0] [{before}]" in done.output


@pytest.mark.multirank
def test_ddp_is_measured_without_horovod(tmp_path):
    poison = tmp_path / "poison/horovod"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise SystemExit('Horovod is here')")
    file = tmp_path / "ddp.json"
    words = ["-m", "hvd_dqn.tools.bench.documented", "ddp", "3", str(file), *TINY]
    done = launch(words, ranks=2, cwd=tmp_path, PYTHONPATH=f"{tmp_path}/poison:{ROOT}")
    assert done.code == 0, done.output
    assert min(json.loads(file.read_text())["env_steps_per_second"]) > 0


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
    assert "round 1, strong, 2 ranks: " in done.output, "progress"
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
    assert sorted(run["ranks"] for run in ways) == [1] * 5 + [2] * 7
    assert len({run["name"] for run in ways}) == 7
    assert all(min(run["env_steps_per_second"]) > 0 for run in ways)


def test_efficiencies_are_those_of_a_round():
    def run(number, ranks, speeds):
        return {"round": number, "ranks": ranks, "mode": "weak", "env_steps_per_second": speeds}

    runs = [run(0, 1, [9.0, 10.0, 11.0]), run(0, 2, [10.0]), run(1, 1, [20.0]), run(1, 2, [36.0])]
    alone, two = rates(runs, 1, mode="weak"), rates(runs, 2, mode="weak")
    assert alone == {0: 10.0, 1: 20.0}
    assert efficiencies(two, 2, alone) == [0.5, 0.9]
    assert rates(runs, 2, mode="strong") == {}


def stand_in(place: Path, name: str, script: str) -> str:
    """A launcher of one rank, which is told its words as `$@`, `-n` and `2` before them."""
    launcher = place / name
    launcher.write_text(f"#!/bin/sh\n{script}\n")
    launcher.chmod(0o755)
    return str(launcher)


def test_what_a_bench_launches_has_a_place_of_its_own_for_sessions(tmp_path, monkeypatch):
    sessions = "PRTE_MCA_prte_local_tmpdir_base"
    for name in (sessions, "PRTE_MCA_prte_tmpdir_base"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    launcher = stand_in(tmp_path, "launcher", 'shift 2\nexec "$@"')
    code = f"""
import json, os, sys
place = os.environ["{sessions}"]
json.dump({{"place": place, "there": os.path.isdir(place)}}, open(sys.argv[1], "w"))
"""
    found = run_program(["-c", code], [], 2, launcher)
    assert found["there"]
    assert not Path(found["place"]).exists()


@pytest.mark.parametrize(
    ("name", "flag"), [("srun", "-n"), ("mpirun", "-n"), ("horovodrun", "-np")]
)
def test_each_launcher_is_told_the_number_of_ranks_in_its_words(tmp_path, monkeypatch, name, flag):
    monkeypatch.chdir(tmp_path)
    launcher = stand_in(tmp_path, name, 'echo "$@" > words\nshift 3\nexec "$@"')
    code = "import sys; open(sys.argv[1], 'w').write('{}')"
    assert run_program(["-c", code], [], 2, f"{launcher} --option") == {}
    assert Path("words").read_text().split()[:3] == ["--option", flag, "2"]


def test_a_result_on_another_host_is_missed_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = stand_in(tmp_path, "launcher", "exit 0")
    with pytest.raises(RunError, match="another host"):
        run_program(["-c", ""], [], 2, launcher)
    assert [path.name for path in tmp_path.iterdir()] == ["launcher"]


def test_what_was_measured_before_a_run_failed_is_kept(tmp_path):
    file = tmp_path / "scaling.json"
    launcher = stand_in(tmp_path, "launcher", "echo no such luck; exit 3")
    done = hvd_dqn(
        *("bench", "scaling", "--rounds", "1", "--records", "2", "--json", str(file)),
        *("--launcher", launcher, "--", *TINY),
        launcher="none", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 1
    assert "no such luck" in done.output
    assert "2 ranks ended in 3" in done.output.splitlines()[-1]
    assert [run["ranks"] for run in json.loads(file.read_text())["runs"]] == [1]


def test_cores_beside_each_other(tmp_path):
    script = ROOT / "benchmarks/cores.py"
    done = launch([str(script), "--turns", "8"], launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
    assert "of 4 pairs of turns: median" in done.output


def test_the_floor_of_an_update(tmp_path):
    file = tmp_path / "floor.json"
    words = ["--rounds", "1", "--records", "1", "--seconds", "0.01", "--json", str(file)]
    done = launch([str(ROOT / "benchmarks/floor.py"), *words], launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
    found = json.loads(file.read_text())["milliseconds"]
    assert list(found)[-2:] == ["hvd_dqn", "hvd_dqn, compiled"]
    assert all(len(times) == 1 and min(times) > 0 for times in found.values())
    assert "| together " in done.output


@pytest.mark.multirank
def test_ways_of_summing_in_turn(tmp_path):
    file = tmp_path / "averaging.json"
    script = ROOT / "benchmarks/averaging.py"
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


def test_sums_are_predicted_from_those_of_their_size():
    sizes = [
        {"bytes": 4, "ours": [60e-6]},
        {"bytes": 4_000_000, "ours": [60e-6 + 6e-3]},
        {"bytes": 8_000_000, "ours": [60e-6 + 24e-3]},
    ]
    result = {"ranks": 4, "sizes": sizes}
    model = model_sums(result, 4_000_000)
    assert model.alpha == pytest.approx(10e-6)
    assert model.beta == pytest.approx(1e-9)
    assert model_sums(result, 8_000_000).beta == pytest.approx(2e-9)
    between = model_sums(result, 6_000_000)
    for seconds_of in (SumModel.ring, SumModel.halving):
        assert seconds_of(model, 4, 4_000_000) == pytest.approx(6.06e-3), "what was measured"
        assert seconds_of(between, 4, 6_000_000) == pytest.approx(15.06e-3), "between two sizes"
        assert seconds_of(model, 1, 4_000_000) == 0
    assert model.ring(64, 4) == pytest.approx(126 * 10e-6, rel=1e-3)
    assert model.halving(64, 4) == pytest.approx(3 * 60e-6, rel=1e-3)


def test_predictions_begin_at_what_was_measured():
    def run(number, ranks, updates_per_second, averaging=0.0, transfer=0.0):
        return {
            **{"round": number, "ranks": ranks, "mode": "weak", "parameter_bytes": 4},
            "updates_per_second": [updates_per_second],
            "shares": {"averaging": averaging},
            "transfer_share": transfer,
        }

    runs = [run(0, 1, 10.0), run(1, 1, 1000.0), run(2, 1, 2000.0)]
    runs += [run(0, 2, 5.0, 0.3, 0.1), run(1, 2, 500.0, 0.4, 0.2), run(2, 2, 5000.0, 0.4, 0.2)]
    sums = {"ranks": 2, "sizes": [{"bytes": 4, "ours": [1e-4]}]}
    result = {"runs": runs, "allreduce": sums}
    assert calibrate(result) == pytest.approx((1e-3, 1.2e-3, 3e-4)), "medians of the rounds"
    two, eight = predict(result, [2, 8], SumModel.ring)
    assert two == pytest.approx((2, 4e-4, 1 / 1.6, 1 / 1.2)), "all but waiting for slower ranks"
    assert eight == pytest.approx((8, 3e-4 + 7e-4, 1 / 2.2, 1 / 1.2))


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
        (
            ["bench", "train", "--", "cartpole", "--logging.period_env_steps=1"],
            "less than the 16 env steps of an iteration",
        ),
        (["bench", "replay", "--capacity", "900000000"], "GB are left"),
        (["bench", "replay", "--json", "/tmp"], "/tmp is a directory"),
        (["bench", "allreduce"], "there is one rank"),
        (["bench", "allreduce", "--seconds", "0"], "--seconds 0"),
        (["bench", "scaling", "--records", "0"], "--records 0"),
        (["bench", "scaling", "--ranks", "0"], "--ranks 0"),
        (["bench", "compare", "--ranks", "0"], "there is nothing to compare"),
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
