"""The table of runs."""

import json
import shutil

import pytest

from hvd_dqn.commands import cli
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.facts import run_facts
from hvd_dqn.tools.runs import Run, find_runs
from hvd_dqn.tools.summary import print_summaries, summarize


def make_run(path, seed, hosts, score):
    run_dir = RunDirectory(path)
    run_dir.create(Config(seed=seed), run_facts(Config(), hosts, "mpi", 1, ["cpu"], {}))
    record = {"env_steps": 5000, "updates": 70, "seconds": 9.0}
    if score is not None:
        record |= {"closing/return_mean": score, "closing/return_std": 1.0}
    run_dir.metrics_file.write_text(json.dumps(record) + "\n")
    return path


def test_the_mean_is_over_finished_runs(tmp_path, capsys):
    first = make_run(tmp_path / "a", 0, ["x"], 10.0)
    second = make_run(tmp_path / "b", 7, ["x", "y"], 14.0)
    third = make_run(tmp_path / "c", 8, ["x"], None)
    runs = [summarize(Run(path)) for path in (first, second, third)]
    assert [run.seed for run in runs] == [0, 7, 8]
    assert [run.ranks for run in runs] == [1, 2, 1]
    print_summaries(runs)
    lines = capsys.readouterr().out.splitlines()
    assert "10.0 ± 1.0" in lines[1]
    assert "not finished" in lines[3]
    assert "2 runs" in lines[4]
    assert "12.0 ± 2.8" in lines[4]


def test_a_resumed_run_has_the_ranks_of_its_last_start(tmp_path):
    path = make_run(tmp_path / "a", 0, ["x"], 10.0)
    facts = json.loads((path / "run.json").read_text())
    facts["resumed"] = [{"world_size": 4}, {"world_size": 3}]
    (path / "run.json").write_text(json.dumps(facts))
    assert summarize(Run(path)).ranks == 3


def test_a_run_without_records(tmp_path):
    path = make_run(tmp_path / "a", 0, ["x"], None)
    RunDirectory(path).metrics_file.unlink()
    assert summarize(Run(path)).env_steps == 0


@pytest.fixture
def runs(tmp_path):
    """Two runs, one of them in a sweep's directory, among other things."""
    top = tmp_path / "runs"
    make_run(top / "a", 0, ["x"], 10.0)
    make_run(top / "sweep" / "b", 1, ["x"], 12.0)
    (top / "notes.txt").write_text("lr 3e-4 was best\n")
    (top / "videos").mkdir()
    (top / "model").mkdir()
    (top / "model" / "config.json").write_text('{"hidden_size": 768}')  # another program's
    (top / "starting").mkdir()
    shutil.copy(top / "a" / "config.json", top / "starting")  # a run without its run.json yet
    return top


def test_directories_are_searched_and_what_is_not_a_run_is_named(runs, capsys):
    for paths in ([runs], [*runs.iterdir()], [runs, runs / "a", runs / "sweep"]):
        found = sorted(run.name for run in find_runs(paths))
        assert found == ["a", "b"]
        skipped = capsys.readouterr().err
        for name in ("model", "starting"):
            assert f"skipped {runs / name}: " in skipped
    find_runs([*runs.iterdir()])
    skipped = capsys.readouterr().err
    assert f"skipped {runs / 'notes.txt'}: it is a file" in skipped
    assert f"skipped {runs / 'videos'}: no run directory is in it" in skipped


def test_a_path_without_runs_is_an_error(runs):
    for paths, words in (
        ([runs / "nope"], "does not exist"),
        ([runs / "a", runs / "nope"], "does not exist"),
        ([runs / "notes.txt"], "no run was found in"),
        ([runs / "videos"], "not a run directory"),
        ([runs / "model"], "not a run directory"),
        ([runs / "videos", runs / "notes.txt"], "no run was found in"),
    ):
        with pytest.raises(UserError, match=words):
            find_runs(paths)


def test_the_commands_take_a_directory_of_runs(runs, capsys):
    for command in ("summary", "report", "plot"):
        (runs / "sweep" / "b" / "metrics.jsonl").write_text(
            json.dumps(
                {
                    "env_steps": 1,
                    "updates": 1,
                    "seconds": 1.0,
                    "evaluation/return_mean": 1.0,
                    "evaluation/return_std": 0.0,
                }
            )
            + "\n"
        )
        assert cli.run([command, str(runs)]) == 0
    assert (runs / "report.html").exists()
    shown = capsys.readouterr().out
    assert str(runs / "a") in shown
    assert str(runs / "sweep" / "b") in shown


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path, capsys):
    path = make_run(tmp_path / "[red]x[/red] [/] :bell: $a$", 0, ["x"], 1.0)
    print_summaries([summarize(Run(path))])
    assert str(path) in capsys.readouterr().out
