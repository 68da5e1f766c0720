import json
import sys

import minatar_games
import pytest

from hvd_dqn.common.errors import UserError
from tests.benchmarks.test_peers import python_with


@pytest.fixture
def scores(tmp_path, monkeypatch):
    """Runs the script with runs that cost nothing; returns the agents that ran, and their table."""
    monkeypatch.setattr(minatar_games, "RESULTS", tmp_path / "minatar.json")
    figures = {"closing_mean": 1.0, "closing_std": 0.0}
    monkeypatch.setattr(minatar_games, "ours", lambda *words: figures)
    monkeypatch.setattr(minatar_games, "theirs", lambda *words: figures)

    def run(python):
        words = ["--games", "Breakout", "--seeds", "2", "--python", str(python)]
        monkeypatch.setattr(sys, "argv", ["minatar_games.py", *words])
        minatar_games.main()
        return {run["agent"] for run in json.loads(minatar_games.RESULTS.read_text())["runs"]}

    return run


def test_a_missing_library_is_left_out(tmp_path, scores, capsys):
    assert scores(python_with(tmp_path, "stable_baselines3-2.9.2")) == {
        *minatar_games.OURS,
        "SB3 DQN",
    }
    printed = capsys.readouterr()
    assert "sb3-contrib is left out" in printed.err
    assert printed.out.count("1.0 ±") == 4
    assert printed.out.count("–") == 1


def test_without_libraries_nothing_starts(tmp_path, scores):
    with pytest.raises(UserError, match="run make peers"):
        scores(tmp_path / "nowhere")
    assert not minatar_games.RESULTS.exists()
