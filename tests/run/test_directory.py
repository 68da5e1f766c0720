import json
import re

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.run.directory import RunDirectory, default_path
from hvd_dqn.run.facts import run_facts


def test_facts_of_a_run(tmp_path):
    run_dir = RunDirectory(tmp_path / "new" / "run")
    run_dir.require_new()
    run_dir.logs.mkdir(parents=True)
    run_dir.require_new()
    run_dir.create(Config(), run_facts(Config(), ["a", "b"], "horovod", 3, ["cpu"] * 2, {}))
    facts = json.loads((run_dir.path / "run.json").read_text())
    assert facts["world_size"] == 2
    assert facts["hosts"] == ["a", "b"]
    assert facts["global_batch_size"] == 2 * Config().replay.batch_size
    assert facts["packages"]["torch"]
    assert json.loads(run_dir.config_file.read_text())["env"]["id"] == "CartPole-v1"


def test_a_taken_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "x").write_text("")
    for path, words in ((tmp_path, "is not empty"), (tmp_path / "x", "is a file")):
        with pytest.raises(UserError, match=words):
            RunDirectory(path).require_new()
    with pytest.raises(UserError, match="cannot be"):
        RunDirectory(tmp_path / "x" / "run").create(Config(), {})


def test_of_two_runs_that_start_at_once_one_gets_the_directory(tmp_path):
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    first.require_new()
    second.require_new()
    first.create(Config(seed=1), {})
    with pytest.raises(UserError, match="another run created"):
        second.create(Config(seed=2), {})
    assert json.loads(first.config_file.read_text())["seed"] == 1


def test_what_the_system_refuses_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be used"):
        RunDirectory(tmp_path / ("x" * 300)).require_new()


def test_default_paths_name_preset_time_and_process():
    import os

    assert re.fullmatch(
        rf"runs/acrobot-\d{{8}}-\d{{6}}-{os.getpid()}", str(default_path("acrobot"))
    )
