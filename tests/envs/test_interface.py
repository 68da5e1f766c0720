"""Mistakes of environments are told truly, with rank and copy, and cost no more than they must."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from hvd_dqn.acting.evaluation import PERIODIC, Evaluator
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig, EvaluationConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.envs import EpisodesLostError, make_vector_env, vector
from hvd_dqn.envs import interface as calls
from hvd_dqn.envs.interface import EnvironmentFailedError, Place
from tests.envs.awkward import OneAtATime
from tests.short_runs import run_of


def config_of(name="Odd", num_envs=2, **kwargs):
    return EnvConfig(id=f"tests.envs.awkward:{name}", num_envs=num_envs, kwargs=json.dumps(kwargs))


def make(name="Odd", num_envs=2, rank=3, vectorization="sync", **kwargs):
    config = dataclasses.replace(config_of(name, num_envs, **kwargs), vectorization=vectorization)
    return make_vector_env(
        config, num_envs=num_envs, episode_seed=lambda copy, number: 10 * copy + number, rank=rank
    )


def simulators_of(envs):
    return envs._shared.simulators


def play(envs, steps=12):
    envs.reset()
    return [envs.step(np.zeros(envs.num_envs, dtype=np.int64)) for _ in range(steps)]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("old step", ["step() returned a tuple of 4", "gym before 0.26"]),
        ("only obs", ["step() returned a ndarray of shape (2,)"]),
        ("no info", ["reset() returned a ndarray of shape (2,)", "gym before 0.26"]),
        ("reward None", ["the reward is None"]),
        ("reward text", ["the reward is '1.5'"]),
        ("reward two", ["the reward is a ndarray of shape (2,)"]),
        ("flag None", ["truncated is None", "True or False"]),
        ("flag dict", ["truncated is a dict"]),
        ("exit", ["SystemExit: 3"]),
        ("raise", ["SimulatorError: 7: the valve is stuck"]),
    ],
)
def test_a_mistake_is_told_with_rank_and_copy(what, words):
    envs = make(what=what, only_copy=1, copy="{copy}")
    with pytest.raises(EnvironmentFailedError) as caught:
        play(envs)
    envs.close()
    message = str(caught.value)
    assert message.startswith("copy 1 of rank 3: "), message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_reset_of_the_old_interface_is_told():
    envs = make("OldReset")
    with pytest.raises(EnvironmentFailedError, match=r"reset\(\) does not accept a seed.*options"):
        envs.reset()


@pytest.mark.parametrize(
    "what", ["reward array", "reward tensor", "reward int", "flags NumPy", "infos"]
)
def test_what_other_libraries_accept_is_accepted(what):
    odd, plain = play(make(what=what)), play(make())
    for ours, expected in zip(odd, plain, strict=True):
        for part, same in zip(ours[:6], expected[:6], strict=True):
            np.testing.assert_array_equal(part, same)
            assert part.dtype == same.dtype


def test_reset_passes_no_options():
    envs = make()
    envs.reset()
    assert [env.unwrapped.options for env in simulators_of(envs)._envs] == [None, None]


def test_a_reward_that_is_not_finite_is_named_once(capsys):
    play(make(what="reward nan", only_copy=1, copy="{copy}"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "copy 1 of rank 3: the reward of step 1 of its episode is nan" in said


def test_an_error_while_closing_costs_a_line(capsys):
    envs = make(what="close")
    play(envs)
    envs.close()
    said = capsys.readouterr().err
    assert said.count("close() raised ConnectionError: the server is gone") == 2
    assert "copy 0 of rank 3" in said
    assert "copy 1 of rank 3" in said


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_run_ends_as_it_would_whatever_its_environments_raise_then(tmp_path, vectorization):
    def run(what):
        kwargs = json.dumps({"what": what})
        settings = {"env.vectorization": vectorization, "env.num_envs": 1}
        odd = {"env.id": "tests.envs.awkward:Odd", "env.kwargs": kwargs}
        return run_of(tmp_path / what, settings | odd)

    last = (run("close") / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["closing/return_mean"] == 5.0
    with pytest.raises(EnvironmentFailedError, match="the valve is stuck"):
        run("raise, close")


def test_an_environment_that_does_not_close_is_interrupted(capsys, monkeypatch):
    monkeypatch.setattr(calls, "SECONDS_TO_CLOSE", 0.1)
    envs = make(num_envs=1, what="close hangs")
    envs.reset()
    envs.close()
    assert "did not return within 0.1 s" in capsys.readouterr().err


def test_settings_of_torch_survive_an_environment(capsys):
    envs = make(num_envs=1, what="torch")
    envs.reset()
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    said = capsys.readouterr().err
    assert "torch's default dtype from torch.float32 to torch.float64" in said
    assert "torch's gradient mode" in said
    assert "--env.vectorization async" in said


def test_placeholders_tell_each_copy_its_rank_and_number():
    config = config_of(port="70{index}", id="{index}", where=["{rank}", "copy-{copy}"], raw="{x}")
    envs = make_vector_env(
        config, num_envs=2, episode_seed=lambda copy, number: 0, rank=1, first_copy=2
    )
    placed = [env.unwrapped.placed for env in simulators_of(envs)._envs]
    # Rank 1 follows the five of rank 0: two that train, two that evaluate, one for videos.
    assert placed == [
        {"port": f"70{index}", "id": index, "where": [1, f"copy-{copy}"], "raw": "{x}"}
        for copy, index in ((2, 7), (3, 8))
    ]
    assert Place(1, 2, 5).fill("{rank}-{copy}-{index}") == "1-2-7"


def test_a_simulator_that_runs_once_is_probed_and_used():
    envs = make("OneAtATime", num_envs=1)
    assert OneAtATime.alive == 1
    play(envs)
    envs.close()
    assert OneAtATime.alive == 0
    with pytest.raises(UserError, match=r"licence.*copy 2 of 2.*--env.num-envs 1.*\{copy\}"):
        make("OneAtATime")
    assert OneAtATime.alive == 0, "the first copy was closed"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_input_that_is_at_fault_stays_so(vectorization):
    envs = make(what="user error", vectorization=vectorization)
    with pytest.raises(UserError, match=r"^the simulator has no map: make one$"):
        play(envs, 1)
    envs.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_copies_need_the_same_spaces(vectorization):
    with pytest.raises(UserError, match=r"copy 1 of rank 3.*\(3,\).*\(2,\)"):
        make(what="space", copy="{copy}", vectorization=vectorization)


def evaluator_of(training, config, **settings):
    return Evaluator(
        config,
        EvaluationConfig(**settings),
        seed=5,
        communicator=LocalCommunicator(),
        training=training,
    )


def test_evaluations_borrow_the_copies_that_train():
    config = config_of("OneAtATime", num_envs=1)
    envs = make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: number)
    with pytest.raises(UserError, match=r"licence.*--evaluation\.envs training"):
        evaluator_of(envs, config, envs="own")
    evaluator = evaluator_of(envs, config)
    assert "the licence is for one simulator" in evaluator.note
    play(envs, steps=3)
    result = evaluator.evaluate(lambda obs: np.zeros(1, np.int64), episodes=4, purpose=PERIODIC)
    assert result.lengths == [5] * 4
    step = envs.step(np.zeros(1, np.int64))
    np.testing.assert_array_equal(step.next_obs, np.full((1, 2), np.float32(0.4)))
    assert envs.step(np.zeros(1, np.int64)).episodes[0][:2] == (5.0, 5)
    evaluator.close()
    assert OneAtATime.alive == 1
    envs.close()


def test_an_episode_that_cannot_be_continued_after_an_evaluation_is_lost():
    config = config_of(num_envs=2)
    envs = make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: number)
    evaluator = evaluator_of(envs, config, envs="training")
    play(envs, steps=3)
    evaluator.evaluate(lambda obs: np.zeros(2, np.int64), episodes=2, purpose=PERIODIC)
    envs._obs[1] += 1  # as if the simulator had drawn other random numbers then
    with pytest.raises(EpisodesLostError) as caught:
        envs.step(np.zeros(2, np.int64))
    assert caught.value.lost.tolist() == [False, True]
    step = envs.step(np.zeros(2, np.int64))
    np.testing.assert_allclose(step.next_obs[:, 0], [0.4, 0.1])


def test_training_is_the_same_wherever_evaluations_are_played(tmp_path):
    steps = {"total_env_steps": 160, "evaluation.period_env_steps": 40}
    networks = []
    for envs in ("own", "training"):
        run_dir = run_of(tmp_path / envs, {**steps, "evaluation.envs": envs})
        files = sorted(run_dir.glob("networks/*/network.safetensors"))
        networks.append([(file.parent.name, file.read_bytes()) for file in files])
    assert networks[0] == networks[1]
    assert len(networks[0]) >= 2


def test_evaluation_episodes_that_were_cut_are_counted():
    config = config_of(num_envs=2)
    envs = make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: number)
    for most, said in ((3, "4 of 4 evaluation episodes had not ended after 3 steps"), (9, "")):
        evaluator = evaluator_of(envs, config, envs="training", max_episode_steps=most)
        result = evaluator.evaluate(lambda obs: np.zeros(2, np.int64), episodes=4, purpose=PERIODIC)
        assert evaluator.truncated(result).startswith(said)
        assert bool(evaluator.truncated(result)) == bool(said)


def test_an_episode_that_does_not_end_is_reported(capsys, monkeypatch):
    monkeypatch.setattr(vector, "_LONG_EPISODE", 1000)
    config = EnvConfig(id="tests.envs.toy:ToyEndless-v0")
    envs = make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: 0)
    play(envs, steps=1100)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "copy 0 of rank 0: its episode has not ended within 1,024 steps" in said
