import json
import re
import subprocess

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.run import facts
from hvd_dqn.run.directory import RunDirectory, default_path
from hvd_dqn.run.facts import run_facts


def test_facts_of_a_run(tmp_path):
    run_dir = RunDirectory(tmp_path / "new" / "run")
    run_dir.require_new()
    run_dir.logs.mkdir(parents=True)
    run_dir.require_new()
    run_dir.create(Config(), run_facts(Config(), ["a", "b"], "horovod", 3, ["cpu"] * 2, {}))
    written = json.loads((run_dir.path / "run.json").read_text())
    assert written["world_size"] == 2
    assert written["hosts"] == ["a", "b"]
    assert written["global_batch_size"] == 2 * Config().replay.batch_size
    assert written["packages"]["torch"]
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


def git(directory, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, "-C", str(directory), *arguments], check=True)


def test_the_commit_is_the_packages_own_or_none(tmp_path, monkeypatch):
    """As in an environment within a project's repository, and in a clone of the package."""
    package = tmp_path / "project/site-packages/hvd_dqn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q", "project")
    git(tmp_path / "project", "add", ".")
    git(tmp_path / "project", "commit", "-q", "-m", "all of it")
    monkeypatch.setattr(facts.hvd_dqn, "__file__", str(package / "__init__.py"))
    assert facts.commit() is None

    clone = package.parent
    (clone / "setup.cfg").write_text("")
    git(clone, "init", "-q", ".")
    assert facts.commit() is None, "not a file of it"
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "the package")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "project/.git"))
    own = facts.commit()
    assert re.fullmatch("[0-9a-f]{40}", own)
    (package / "__init__.py").write_text("changed")
    assert facts.commit() == f"{own}-dirty"


def test_default_paths_name_preset_time_and_process():
    import os

    assert re.fullmatch(
        rf"runs/acrobot-\d{{8}}-\d{{6}}-{os.getpid()}", str(default_path("acrobot"))
    )
