"""Runs of other people, whose configuration may name code to import."""

import json
import shutil

import pytest

from hvd_dqn import load_policy
from hvd_dqn.commands.cli import run
from hvd_dqn.config import Config
from hvd_dqn.run.foreign_code import announce_environment_code, announce_network_code
from tests.short_runs import run_of


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("CartPole-v1", ""),
        ("gymnasium.envs:CartPole-v1", ""),
        ("ale_py:ALE/Pong-v5", ""),
        ("minatar.gym:MinAtar/Breakout-v0", ""),
        (
            "their_package.games:Env-v0",
            "their_package.games (env.id = 'their_package.games:Env-v0')",
        ),
        ("gymnasium_of_theirs:make", "gymnasium_of_theirs (env.id = 'gymnasium_of_theirs:make')"),
    ],
)
def test_only_code_of_packages_that_are_not_known_is_announced(tmp_path, capfd, env_id, said):
    config = Config().changed({"env.id": env_id})
    for _ in range(2):
        announce_environment_code(config, tmp_path / "their-run")
    announce_network_code(config, tmp_path / "their-run")
    where = f"hvd-dqn: {tmp_path / 'their-run'} names code, which is imported now: "
    assert capfd.readouterr().err == (f"{where}{said}\n" if said else "")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("runs") / "own")


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["evaluate", "--episodes", "1"], ("env", "id")),
        (["evaluate", "--episodes", "1"], ("network", "torso")),
        (["play", "--video", "x.gif"], ("env", "id")),
        (["export"], ("objective", "distribution")),
        (["export"], ("env", "id")),
    ],
)
def test_commands_say_what_they_are_about_to_import(
    own, tmp_path, monkeypatch, capfd, words, setting
):
    """The module is missing, so each command ends at its import, after the line."""
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "theirs"
    shutil.copytree(own, theirs)
    config = json.loads((theirs / "config.json").read_text())
    config[setting[0]][setting[1]] = "no_such_package_of_theirs:thing"
    (theirs / "config.json").write_text(json.dumps(config))
    assert run([words[0], str(theirs), *words[1:]]) == 2
    said, failed = capfd.readouterr().err.splitlines()
    name = ".".join(setting)
    assert said.startswith(f"hvd-dqn: {theirs} names code, which is imported now: ")
    assert said.endswith(f"({name} = 'no_such_package_of_theirs:thing')")
    assert "no_such_package_of_theirs" in failed


def test_an_own_run_is_loaded_without_a_word(own, capfd):
    load_policy(own)
    assert run(["evaluate", str(own), "--episodes", "1"]) == 0
    assert capfd.readouterr().err == ""
