"""A resumed run compares its spaces with those of the environment."""

import json

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config.loading import load_config
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.evaluate import Play, evaluate_run
from hvd_dqn.training import train
from tests.envs import toy
from tests.short_runs import run_of

PLACE = {"env.id": "tests.envs.toy:ToyCounting-v0"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("runs") / "run", PLACE)


@pytest.fixture
def changed(monkeypatch):
    """The environment, with another start of its actions than the run was trained with."""
    made = toy.Counting.__init__

    def with_start(self, **kwargs):
        made(self, **kwargs | {"first_action": 1})

    monkeypatch.setattr(toy.Counting, "__init__", with_start)


SAID = r"trained with actions Discrete\(3\), and the environment has Discrete\(3, start=1\)"


def test_an_evaluation_in_another_environment_is_refused(run, changed):
    with pytest.raises(UserError, match=SAID):
        evaluate_run(run, Play(episodes=1), LocalCommunicator())


def test_a_run_does_not_resume_in_another_environment(run, changed):
    before = (run / "config.json").read_text(), (run / "run.json").read_text()
    longer = load_config(run / "config.json").changed({"total_env_steps": 96})
    with pytest.raises(UserError, match=SAID):
        train(longer, LocalCommunicator(), RunDirectory(run), changes={"total_env_steps"})
    assert ((run / "config.json").read_text(), (run / "run.json").read_text()) == before


def test_a_run_of_version_0_1_0_is_evaluated_whatever_its_start(run, changed):
    file = run / "run.json"
    facts = json.loads(file.read_text())
    old = {"observation": facts["spaces"]["observation"], "num_actions": 3}
    file.write_text(json.dumps(facts | {"spaces": old}))
    _, (result,) = evaluate_run(run, Play(episodes=2), LocalCommunicator())
    file.write_text(json.dumps(facts))
    assert result.returns == [5.0, 5.0]
