import json
import sys

import pytest
import score_rows
import scores

from hvd_dqn.common.errors import UserError
from tests.benchmarks.test_peers import python_with
from tests.launching import hvd_dqn

SHORT = (
    "--learning-starts-env-steps=100 --logging.period-env-steps=200 --evaluation.episodes=1 "
    "--replay.capacity=1000 --replay.batch-size=8 --network.hidden-sizes=8"
)
WORK = {"algorithm": "DQN", "env_id": "CartPole-v1", "options": {}}
ROWS = [
    score_rows.Row(
        "short", "CartPole", "ours", 400, 2, ("cartpole", *SHORT.split()), evaluations=2, episodes=3
    ),
    score_rows.Row("short", "CartPole", "SB3 DQN", 400, 2, work=WORK, library="Stable-Baselines3"),
    score_rows.Row("short", "CartPole", "SB3 QR-DQN", 400, 2, work=WORK, library="sb3-contrib"),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the script on short rows, without peers; returns the runs that are recorded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scores, "RESULTS", tmp_path)
    monkeypatch.setattr(scores, "rows", lambda: iter(ROWS))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["scores.py", "short", *words])
        scores.main()
        return scores.read_results("short")

    return run


def evaluate(run_dir, words):
    done = hvd_dqn("evaluate", str(run_dir), *words, ranks=1, launcher="none")
    return json.loads(done.output)


def test_our_runs_are_made_once_and_continued(run, tmp_path, capsys):
    (first,) = run("--only", "ours", "--seeds", "0")
    assert (first["task"], first["seed"], first["env_steps"]) == ("CartPole", 0, 400)
    assert [env_steps for env_steps, _ in first["curve"]] == [208, 400]  # ends of vector steps
    assert "--total-env-steps 400" in first["command"]
    assert first["closing_mean"] > 5
    again = run("--only", "ours", "--parallel", "1")
    assert [one["seed"] for one in again] == [0, 1]
    assert again[0] == first
    (tmp_path / "scores-short.json").unlink()
    (continued,) = run("--only", "ours", "--seeds", "0")
    assert continued["closing_mean"] == first["closing_mean"], "from its run directory"
    assert capsys.readouterr().out.count("CartPole") == 3


@pytest.mark.multirank
def test_a_row_of_two_ranks_and_one_of_the_last_network(run, monkeypatch):
    words = ("cartpole", *SHORT.split())
    rest = {"evaluations": 2, "episodes": 3}
    two = score_rows.Row("short", "CartPole", "two", 400, 1, words, ranks=2, threshold=1.0, **rest)
    last = score_rows.Row("short", "CartPole", "last", 400, 1, words, protocol="last", **rest)
    monkeypatch.setattr(scores, "rows", lambda: iter([two, last]))
    runs = {one["agent"]: one for one in run("--parallel", "2")}
    assert runs["two"]["command"].startswith("horovodrun -np 2 hvd-dqn train cartpole")
    (run_dir,) = scores.RUNS.glob("short/*last*/seed-0")
    newest = evaluate(run_dir, ["--episodes", "3", "--network", "newest", "--json"])
    assert runs["last"]["closing_mean"] == newest["mean"]


def test_tables_are_written_in_their_places(run, monkeypatch):
    runs = [
        {"task": "CartPole", "agent": "ours", "env_steps": 400, "seed": seed, "seconds": 5.0}
        | {"closing_mean": score, "curve": [[200, 2.0], [400, score]]}
        for seed, score in enumerate([9.0, 11.0])
    ]
    scores.results_file("short").write_text(json.dumps({"runs": runs}))
    monkeypatch.setattr(scores, "rows", lambda: iter([ROWS[0]._replace(threshold=10.0), *ROWS[1:]]))
    page = "before\n<!-- scores: short -->\nold\n<!-- end of scores -->\nafter\n"
    filled = scores.with_tables(page)
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in filled.splitlines() if "|" in r]
    assert dict(zip(rows[0], rows[2], strict=True)) == {
        "task": "CartPole",
        "agent": "ours",
        "env steps": "400",
        "seeds": "2",
        "return, mean ± std (worst … best)": "10.00 ± 1.41 (9.00 … 11.00)",
        "to reach": "10",
        "seeds that reach it": "1 of 2",
        "first reached after, median env steps": "400",
        "seconds, median": "5",
    }
    assert len(rows) == 3
    assert filled.startswith("before\n<!--")
    assert filled.endswith("<!-- end of scores -->\nafter\n")
    assert scores.with_tables(filled) == filled


@pytest.mark.parametrize("page", scores.PAGES, ids=lambda page: page.name)
def test_pages_have_the_newest_tables(page):
    assert scores.with_tables(page.read_text()) == page.read_text()


def test_a_missing_library_is_left_out(run, tmp_path, monkeypatch, capsys):
    asked = []

    def script(python, words):
        asked.append(json.loads(words[-1]))
        return {"closing_mean": 1.0, "closing_std": 0.0}

    monkeypatch.setattr(scores, "run_script", script)
    runs = run("--only", "SB3", "--python", str(python_with(tmp_path, "stable_baselines3-2.9.2")))
    assert {one["agent"] for one in runs} == {"SB3 DQN"}
    assert runs[0]["library"] == "Stable-Baselines3 2.9.2"
    assert sorted(work["seed"] for work in asked) == [0, 1]
    printed = capsys.readouterr()
    assert "sb3-contrib is left out" in printed.err
    assert printed.out.count("1.00 ± 0.00") == 1


def test_without_libraries_nothing_starts(run, tmp_path):
    with pytest.raises(UserError, match="run make peers"):
        run("--only", "SB3", "--python", str(tmp_path / "nowhere"))
    assert not scores.read_results("short")


def test_rows_have_names_of_their_own_and_known_presets():
    from hvd_dqn.presets import PRESETS

    every = list(score_rows.rows())
    assert len({(row.group, scores.name_of(row)) for row in every}) == len(every)
    for row in every:
        assert bool(row.library) == bool(row.work) != bool(row.words)
        if row.library:
            assert (scores.HERE / row.script).exists()
        if row.words and not row.words[0].startswith("--"):
            assert row.words[0] in PRESETS
