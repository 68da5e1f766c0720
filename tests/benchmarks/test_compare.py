import json
import sys

import compare
import pytest

from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.errors import RunError
from tests.benchmarks import BENCHMARKS, TINY
from tests.benchmarks.test_peers import python_with
from tests.launching import launch

SCRIPT = str(BENCHMARKS / "compare.py")


@pytest.mark.multirank
def test_ways_of_averaging(tmp_path):
    file, place = tmp_path / "compare.json", tmp_path / "tmp"
    place.mkdir()
    words = ["--rounds", "1", "--records", "3", "--json", str(file), "--", *TINY]
    done = launch([SCRIPT, *words], launcher="none", cwd=tmp_path, TMPDIR=str(place))
    assert done.code == 0, done.output
    assert not list(place.rglob("run.json")), "no run is left behind"
    ways = json.loads(file.read_text())["ways"]
    assert sorted(run["ranks"] for run in ways) == [1] * 5 + [2] * 7
    assert len({run["name"] for run in ways}) == 7
    assert all(min(run["env_steps_per_second"]) > 0 for run in ways)


def test_a_missing_library_is_left_out(tmp_path, monkeypatch, capsys):
    python = python_with(tmp_path, "torch-2.13.0", "stable_baselines3-2.9.2", "torchrl-0.14.1")
    asked = []

    def measured(words):
        asked.append(words)
        return {"ranks": 1, "env_steps_per_second": [100.0 * len(asked)]}

    monkeypatch.setattr(compare, "run_script", lambda python, words: measured(words))
    monkeypatch.setattr(compare, "run_bench", lambda words, ranks, launcher: measured(words))
    file = tmp_path / "compare.json"
    words = ["--python", str(python), "--ranks", "0", "--rounds", "1", "--num-envs", "1"]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words, "--json", str(file)])
    compare.main()
    result = json.loads(file.read_text())
    assert [run["name"] for run in result["peers"]] == [
        *("Stable-Baselines3", "TorchRL", "TorchRL, compiled", "hvd_dqn", "hvd_dqn, compiled")
    ]
    assert asked[0][:2] == [str(BENCHMARKS / "peer_sb3.py"), "speed"]
    assert result["peer_versions"] == {
        "Stable-Baselines3": "2.9.2",
        "TorchRL": "0.14.1",
        "torch": "2.13.0",
    }
    printed = capsys.readouterr()
    assert "Tianshou is left out" in printed.err
    assert "Tianshou" not in printed.out
    assert "| 1            | TorchRL, compiled | 300 " in printed.out


def test_a_library_that_fails_is_left_out(monkeypatch, capsys):
    asked = []

    def run_script(python, words):
        asked.append(words[0])
        if "tianshou" in words[0]:
            raise RunError("peer_tianshou.py failed with exit code 1: ImportError: no symbol")
        return {"env_steps_per_second": [100.0]}

    monkeypatch.setattr(compare, "run_script", run_script)
    ours = {"ranks": 1, "env_steps_per_second": [100.0]}
    monkeypatch.setattr(compare, "run_bench", lambda words, ranks, launcher: ours)
    libraries = ["Stable-Baselines3", "Tianshou"]
    runs = compare.measure_peers(
        "python", libraries, rounds=2, records=3, num_envs=[1], keep=lambda runs: None
    )
    names = ["Stable-Baselines3", "hvd_dqn", "hvd_dqn, compiled"]
    assert [run["name"] for run in runs] == names * 2
    assert sum("tianshou" in script for script in asked) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said == [
        "bench: Tianshou is left out: peer_tianshou.py failed with exit code 1: ImportError: no "
        "symbol"
    ]


def test_our_options_describe_the_same_work():
    work = compare.WORK
    config = parse_train(compare.our_words(work | {"num_envs": 8})).config
    assert config.env_steps_per_iteration(1) == work["round_env_steps"] == 256
    assert config.updates_per_iteration == work["round_updates"] == 128
    assert list(config.network.hidden_sizes) == work["hidden_sizes"]
    assert config.optimizer.learning_rate == work["learning_rate"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--ranks", "0"], 2, "leaves nothing to compare"),
        (["--ranks", "1"], 2, "must be 0, or 2 or more"),
        (["--records", "2"], 2, "2 is less than 3"),
        (["--launcher", "no-such-launcher"], 1, "no-such-launcher"),
        (["--python", "/no/python", "--ranks", "0"], 1, "run make peers"),
    ],
)
def test_errors_are_one_line(tmp_path, words, code, said):
    done = launch([SCRIPT, *words], launcher="none", cwd=tmp_path)
    assert done.code == code, done.output
    assert said in done.output.splitlines()[-1]
