"""The table of runs."""

import json

from hvd_dqn.config import Config
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.facts import run_facts
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
    runs = [summarize(path) for path in (first, second, third)]
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
    assert summarize(path).ranks == 3


def test_a_run_without_records(tmp_path):
    path = make_run(tmp_path / "a", 0, ["x"], None)
    RunDirectory(path).metrics_file.unlink()
    assert summarize(path).env_steps == 0
