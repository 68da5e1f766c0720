"""`hvd-dqn train`: a dry run, and the end of a complete run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvd_dqn.commands import cli
from tests.launching import clean_environment
from tests.short_runs import run_of

REPORT = """
from pathlib import Path
from types import SimpleNamespace as Fake
from hvd_dqn.commands.train import _report
from hvd_dqn.common.output import make_output_tolerant

make_output_tolerant()
score = Fake(mean=1.0, std=0.0, returns=(1.0,))
summary = Fake(progress=Fake(env_steps=100, updates=10), score=score, seconds=1.0)
_report("cartpole", Path("no-such-run"), Path("no-such-run"), summary)
"""


def test_neither_a_failed_plot_nor_a_closed_pipe_fails_a_complete_run(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", REPORT],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=clean_environment(MPLBACKEND="no-such-backend", PYTHONPATH=str(Path.cwd())),
        timeout=120,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("hvd-dqn: the learning curve was not drawn: ")


def test_a_dry_run_states_what_the_run_needs_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "train cartpole --dry-run --network.hidden-sizes 16,8 --no-network.layer-norm"
    assert cli.run([*words.split(), "--no-network.dueling", "--env.num-envs", "4"]) == 0
    assert list(tmp_path.iterdir()) == []
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    parameters = (4 + 1) * 16 + (16 + 1) * 8 + (8 + 1) * 2
    assert facts["parameters"].startswith(f"{parameters} (")
    assert facts["environments"] == "4 of CartPole-v1 per rank"
    assert facts["observation"] == "float32 [4]"
    assert facts["actions"] == "2"
    assert facts["ranks"].startswith("1 rank (local)")
    assert "runs/cartpole-" in facts["run"]


def test_a_dry_run_of_a_run_that_exists(tmp_path, capsys):
    path = run_of(tmp_path / "run")
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    config = ["--config", str(path / "config.json"), "--run-dir", str(path)]
    assert cli.run(["train", *config, "--dry-run"]) == 0
    assert "resumes at 48 env steps" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--env.id NoSuch-v0", "NoSuch"),
        ("--replay.capacity 1e13", "GB are free"),
        ("--logging.loggers no_such_module:Logger", "no_such_module"),
        ("--exploration.kind nothing", "exploration.kind"),
        ("--checkpoint.directory {}/file/below", "is not a writable directory"),
        ("--run-dir {}/file", "is a file"),
    ],
)
def test_a_dry_run_finds_what_would_stop_the_run(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code = cli.run(["train", "cartpole", "--dry-run", *options.format(tmp_path).split()])
    assert code == 2
    assert words in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
