"""Trained policies that come with a clone."""

import json
import shutil
from pathlib import Path

import pytest

from hvd_dqn import load_policy
from hvd_dqn.commands import cli
from hvd_dqn.common.errors import UserError
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.zoo import located, policy_names, read_card
from hvd_dqn.tools.runs import find_runs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_acts_and_has_its_score_in_the_results(name):
    policy = load_policy(f"zoo:{name}")
    obs = policy.observation_space.sample()
    assert policy.action_space.contains(policy.act(obs))
    card = read_card(name)
    results = [
        run
        for file in (ROOT / "benchmarks/results").glob("scores-*.json")
        for run in json.loads(file.read_text())["runs"]
        if run["seed"] == card["seed"] and run.get("command") == card["command"]
    ]
    assert [run["closing_mean"] for run in results] == [card["closing_mean"]]
    facts = json.loads((located(Path(f"zoo:{name}")) / "run.json").read_text())
    assert results[0]["commit"] == card["commit"] == facts["commit"]
    (run,) = find_runs([Path(f"zoo:{name}")])
    assert run.config["seed"] == card["seed"] == 0
    assert max(record["env_steps"] for record in run.records) >= card["env_steps"]
    assert {path.name for path in located(Path(f"zoo:{name}")).iterdir()} == {
        "card.json",
        "config.json",
        "metrics.jsonl",
        "networks",
        "run.json",
    }


def test_the_score_of_a_policy_is_found_again(capsys):
    assert cli.run(["evaluate", "zoo:cartpole", "--episodes", "10", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mean"] == read_card("cartpole")["closing_mean"] == 500
    assert result["checkpoint"].startswith("zoo:cartpole/networks/step-")


def test_the_list_and_a_card(capsys):
    assert cli.run(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == policy_names()
    assert cli.run(["zoo", "zoo:cartpole"]) == 0
    assert "hvd-dqn train cartpole --seed 0" in capsys.readouterr().out
    assert cli.run(["zoo", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == policy_names()


def test_the_page_shows_every_policy():
    page = (ROOT / "docs/zoo.md").read_text()
    for name in policy_names():
        assert f"\n## {name}\n" in page
        assert (ROOT / f"docs/zoo/{name}.png").exists()
        assert read_card(name)["command"] in page


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A zoo with one policy, and an empty working directory."""
    shutil.copytree(located(Path("zoo:cartpole")), tmp_path / "zoo/mine")
    monkeypatch.setenv("HVD_DQN_ZOO", str(tmp_path / "zoo"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "zoo"


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["zoo:mine", "../zoo/mine"])
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--resume", "never"]])
def test_a_policy_is_never_trained(copied, capsys, name, more):
    before = contents(copied)
    words = ["train", "--config", str(copied / "mine/config.json"), "--run-dir", name, *more]
    assert cli.run([*words, "--total-env-steps", "60000"]) == 2
    assert f"{name} is a trained policy" in capsys.readouterr().err
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["report", "zoo:mine"], "mine/report.html"),
        (["export", "zoo:mine", "--format", "torch", "--observations", "5"], "mine/policy.pt2"),
        (["plot", "zoo:mine"], "mine/plots/learning_curve.png"),
        (["summary", "zoo:mine"], ""),
        (["watch", "zoo:mine", "--once"], ""),
    ],
)
def test_files_about_a_policy_are_written_elsewhere(copied, words, written, capsys):
    before = contents(copied)
    assert cli.run(words) == 0
    assert contents(copied) == before
    found = [str(path.relative_to(Path.cwd())) for path in Path.cwd().rglob("*") if path.is_file()]
    assert found == [written] * bool(written)


def test_a_damaged_policy_is_named(copied):
    (copied / "mine/run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        find_runs([Path("zoo:mine")])


def test_unknown_names_and_missing_policies_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="did you mean 'cartpole'"):
        RunDirectory(Path("zoo:cartpol"))
    assert cli.run(["evaluate", "zoo:nothing"]) == 2
    assert "there is no policy 'zoo:nothing'" in capsys.readouterr().err
    assert cli.run(["train", "cartpole", "--run-dir", "zoo:mine"]) == 2
    assert not Path("zoo:mine").exists()
    monkeypatch.setenv("HVD_DQN_ZOO", str(tmp_path))
    with pytest.raises(UserError, match="clone the project's repository"):
        policy_names()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/card.json").write_text("{")
    with pytest.raises(UserError, match=r"card\.json cannot be read"):
        read_card("mine")
    assert policy_names() == ["mine"]
