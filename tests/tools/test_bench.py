"""Every `hvd-dqn bench`, with tiny runs: the measurements exist; their values are not checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.common.stages import STAGES
from hvd_dqn.presets import PRESETS
from hvd_dqn.tools.bench import learning, scaling
from hvd_dqn.tools.bench.allreduce import SumModel, model_sums
from hvd_dqn.tools.bench.launched import efficiencies, rates, run_program
from hvd_dqn.tools.bench.predictions import calibrate, predict
from hvd_dqn.tools.bench.report import finish, number, print_table, spread
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
def test_nccl_without_a_gpu_is_rejected_in_one_line():
    done = hvd_dqn("bench", "allreduce", "--backend", "mpi", "--beside", "nccl", ranks=2)
    assert done.code == 2, done.output
    assert len(done.lines("--beside nccl: rank")) == 1


@pytest.mark.multirank
def test_plain_sums_are_sums(tmp_path):
    program = """
import sys
import torch
from hvd_dqn.distributed.connect import connect
from hvd_dqn.tools.bench.plain_sums import MpiSums, TorchSums
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


def test_efficiency_compares_runs_of_one_round():
    def run(number, ranks, speeds):
        return {"round": number, "ranks": ranks, "mode": "weak", "env_steps_per_second": speeds}

    runs = [run(0, 1, [9.0, 10.0, 11.0]), run(0, 2, [10.0]), run(1, 1, [20.0]), run(1, 2, [36.0])]
    alone, two = rates(runs, 1, mode="weak"), rates(runs, 2, mode="weak")
    assert alone == {0: 10.0, 1: 20.0}
    assert efficiencies(two, 2, alone) == [0.5, 0.9]
    assert rates(runs, 2, mode="strong") == {}


def stand_in(place: Path, name: str, script: str) -> str:
    """Create a launcher that runs `script`, with its arguments in `$@`."""
    launcher = place / name
    launcher.write_text(f"#!/bin/sh\n{script}\n")
    launcher.chmod(0o755)
    return str(launcher)


def test_each_launch_gets_its_own_session_directory(tmp_path, monkeypatch):
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
def test_each_launcher_gets_its_option_for_the_number_of_ranks(tmp_path, monkeypatch, name, flag):
    monkeypatch.chdir(tmp_path)
    launcher = stand_in(tmp_path, name, 'echo "$@" > words\nshift 3\nexec "$@"')
    code = "import sys; open(sys.argv[1], 'w').write('{}')"
    assert run_program(["-c", code], [], 2, f"{launcher} --option") == {}
    assert Path("words").read_text().split()[:3] == ["--option", flag, "2"]


def test_a_missing_result_suggests_a_shared_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = stand_in(tmp_path, "launcher", "exit 0")
    with pytest.raises(RunError, match="a directory that both hosts share"):
        run_program(["-c", ""], [], 2, launcher)
    assert [path.name for path in tmp_path.iterdir()] == ["launcher"]


def test_measurements_before_a_failed_run_are_kept(tmp_path):
    file = tmp_path / "scaling.json"
    launcher = stand_in(tmp_path, "launcher", "echo no such luck; exit 3")
    done = hvd_dqn(
        *("bench", "scaling", "--rounds", "1", "--records", "2", "--json", str(file)),
        *("--launcher", launcher, "--", *TINY),
        launcher="none", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 1
    assert "no such luck" in done.output
    assert "2 ranks failed with exit code 3" in done.output.splitlines()[-1]
    assert [run["ranks"] for run in json.loads(file.read_text())["runs"]] == [1]


def test_sums_are_predicted_from_sums_of_their_size():
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


def test_predictions_start_from_measurements():
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
        (["bench"], "choose one of train, allreduce, scaling"),
        (["bench", "fly"], "bench fly"),
        (["bench", "train", "--records", "0"], "--records.* 0: must be greater than 0"),
        (["bench", "train", "--", "cartpol"], "unknown preset 'cartpol'"),
        (["bench", "train", "--json", "/proc/x/y.json", "--", *TINY], "/proc/x/y.json"),
        (["bench", "train", "--json", "/tmp", "--", *TINY], "/tmp is a directory"),
        (
            ["bench", "train", "--", "cartpole", "--logging.period_env_steps=1"],
            "less than the 16 env steps of one iteration",
        ),
        (["bench", "allreduce"], "needs two or more ranks"),
        (["bench", "allreduce", "--", "cartpole"], "takes no preset"),
        (["bench", "allreduce", "--seconds", "0"], r"--seconds.* 0.*: must be greater than 0"),
        (["bench", "scaling", "--records", "0"], "--records.* 0: must be greater than 0"),
        (["bench", "scaling", "--ranks", "2", "0"], r"--ranks.*: must be one or more numbers"),
        (["bench", "scaling", "--launcher", "no-such-launcher"], "no-such-launcher"),
        (["bench", "scaling", "--plot", "a.gif"], r"must end in \.png, \.svg or \.pdf"),
    ],
)
def test_errors_are_one_line(tmp_path, words, said):
    done = hvd_dqn(*words, launcher="none", cwd=tmp_path)
    assert done.code == 2, done.output
    assert re.search(said, done.output.splitlines()[-1])


def test_figures():
    assert [number(x) for x in (1234.5, 12.345, 0.0012345)] == ["1,234", "12.3", "0.00123"]
    assert number(float("nan")) == "–"
    assert str(spread([3.0, 1.0, 2.0])) == "2 (1 … 3)"
    with pytest.raises(UserError, match="cannot be written"):
        finish("x", {}, Path("/proc/nothing/here.json"))


def test_a_table_is_markdown(capsys):
    long = "x" * 200
    print_table("times [ms]", ["name", "value"], [["[a]", "1"], [long, "2"]])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "times [ms]"
    assert [line.split() for line in lines[1::2]] == [
        ["|", "name", "|", "value", "|"],
        ["|", "[a]", "|", "1", "|"],
    ]
    assert set(lines[2]) == {"|", "-"}
    assert lines[4] == f"| {long} | 2     |"


@pytest.mark.multirank
def test_scaling_refuses_to_run_under_a_launcher():
    done = hvd_dqn("bench", "scaling", ranks=2)
    assert done.code == 2, done.output
    assert "starts its ranks itself" in done.output


def test_learning_at_scale(tmp_path):
    file, runs = tmp_path / "learning.json", tmp_path / "runs"
    options = ["--score", "5", "--ranks", "2", "512", "--seeds", "1", "--rules", "sqrt", "linear"]
    options += ["--run-dir", str(runs), "--json", str(file), "--plot", str(tmp_path / "a.png")]
    short = ["--total-env-steps=400", "--evaluation.period-env-steps=200", "--logging.loggers"]
    words = ["bench", "learning-at-scale", *options, "--", *TINY, *short]
    done = hvd_dqn(*words, ranks=1, launcher="none", cwd=tmp_path)
    assert done.code == 0, done.output
    assert "512 ranks make no update within 400 env steps" in done.output
    result = json.loads(file.read_text())
    kinds = [(run["ranks"], run["rule"]) for run in result["runs"]]
    assert kinds == [(1, "none"), (2, "sqrt"), (2, "linear")]
    assert all(run["reached_env_steps"] >= 200 for run in result["runs"])
    two = json.loads((runs / "sqrt-2-ranks-seed-0/config.json").read_text())
    one = json.loads((runs / "none-1-ranks-seed-0/config.json").read_text())
    assert two["env"]["num_envs"] == 2 * one["env"]["num_envs"]
    assert two["replay"]["batch_size"] == 2 * one["replay"]["batch_size"]
    assert two["optimizer"]["learning_rate"] == pytest.approx(
        2**0.5 * one["optimizer"]["learning_rate"]
    )
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert done.output.count("1 of 1") == 3


def test_predicted_seconds_of_learning():
    network = learning.Network(latency=1e-5, bandwidth=1e9)
    assert network.sum_seconds(1, 10**6) == 0
    assert network.sum_seconds(4, 10**6) == pytest.approx(6 * 1e-5 + 1.5 * 1e-3)
    runs = [
        {"ranks": 1, "rule": "none", "reached_env_steps": 800, "reached_updates": 100},
        {"ranks": 4, "rule": "sqrt", "reached_env_steps": 1600, "reached_updates": 50},
        {"ranks": 4, "rule": "sqrt", "reached_env_steps": None, "reached_updates": None},
        {"ranks": 4, "rule": "none", "reached_env_steps": None, "reached_updates": None},
    ]
    for run in runs:
        run |= {"updates_per_second": 250.0, "parameter_bytes": 10**6}
    one, sqrt, none = learning.rows_of({"runs": runs}, network)
    assert one.seconds == pytest.approx(100 * 0.004)
    assert (sqrt.seeds, sqrt.reached, sqrt.env_steps) == (2, 1, 1600)
    assert sqrt.seconds == pytest.approx(50 * (0.004 + 6e-5 + 1.5e-3))
    assert none.reached == 0
    assert none.seconds != none.seconds
    (one, *_) = learning.rows_of({"runs": runs}, network, update_seconds=0.001)
    assert one.seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("preset", "rule", "expected"),
    [
        ("cartpole", "none", (32, 256, 1e-3, 0)),
        ("cartpole", "linear", (32, 256, 4e-3, 78)),
        ("cartpole-pqn", "sqrt", (128, 512, 2e-4, 0)),
    ],
)
def test_one_rank_that_learns_as_four(preset, rule, expected):
    config = PRESETS[preset]()
    config = config.changed({"optimizer.learning_rate": config.optimizer.learning_rate})
    one = config.changed(learning.equivalent(config, 4, rule))
    assert (one.env.num_envs, one.batch_size) == expected[:2]
    assert one.optimizer.learning_rate == pytest.approx(expected[2])
    assert (one.optimizer.warmup_updates > 0) == (expected[3] > 0)
    assert one.env_steps_per_iteration(1) == config.env_steps_per_iteration(4)
    assert one.planned_updates(1) == config.planned_updates(4)


def test_ranks_that_average_parameters_are_not_one_rank():
    with pytest.raises(UserError, match="leave it gradients"):
        learning.require_equivalent(
            PRESETS["cartpole"]().changed(
                {
                    "distributed.average": "parameters",
                    "distributed.average_period_updates": 25,
                    "optimizer.world_size_scaling": "none",
                }
            )
        )


@pytest.mark.parametrize(
    ("changes", "ranks", "divides"),
    [
        ({}, 2, True),
        ({}, 3, False),
        ({"env.num_envs": 2, "rollout.steps": 16}, 2, False),  # 16 steps in 32 minibatches
    ],
)
def test_which_ranks_can_divide_a_rollout(changes, ranks, divides):
    config = PRESETS["minatar-pqn"]().changed(changes)
    whole = {"env.num-envs": config.env.num_envs}
    assert scaling._divides(ranks, config, whole) == divides
