"""Wrappers that `env.wrappers` names."""

import json
import shutil

import numpy as np
import pytest

from hvd_dqn import load_policy
from hvd_dqn.commands.cli import run
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_env, make_vector_env
from tests.short_runs import run_of

OURS = "tests.envs.wrapped"
APPENDED = f'{OURS}:Appended={{"value": 7, "shape": [2]}}'
COUNTING = "tests.envs.toy:ToyCounting-v0"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_wrappers_are_applied_in_order_with_their_arguments(vectorization):
    wrappers = (f"{OURS}:Appended", "gymnasium.wrappers:TimeAwareObservation", APPENDED)
    kwargs = '{"max_episode_steps": 9}'
    config = EnvConfig(id=COUNTING, wrappers=wrappers, vectorization=vectorization, kwargs=kwargs)
    envs = make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: 10 * copy)
    try:
        np.testing.assert_array_equal(
            envs.reset(), [[0, 0, 1, 0, 7, 7], [10, 0, 1, 0, 7, 7]], "seed, step, ours, time, ours"
        )
        assert envs.step(np.zeros(2, np.int64)).obs[0].tolist() == [0, 1, 1, 1, 7, 7]
    finally:
        envs.close()


def test_placeholders_in_arguments_number_the_copies():
    config = EnvConfig(id=COUNTING, wrappers=(f'{OURS}:Appended={{"value": "{{copy}}"}}',))
    envs = make_vector_env(config, num_envs=2, first_copy=3, episode_seed=lambda copy, number: 0)
    assert envs.reset()[:, -1].tolist() == [3, 4]


def test_a_function_that_makes_the_environment_is_wrapped_too():
    wrapper = 'gymnasium.wrappers:TimeLimit={"max_episode_steps": 2}'
    env = make_env(EnvConfig(id=f"{OURS}:make", kwargs='{"length": 9}', wrappers=(wrapper,)))
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        (f"{OURS}:Appendd", ["env.wrappers 'tests.envs.wrapped:Appendd'", "Appendd"]),
        ("no_such_module:W", ["env.wrappers 'no_such_module:W'", "no module 'no_such_module'"]),
        (f"{OURS}:broken", ["cannot wrap the environment", "ValueError: no such sensor"]),
        (f'{OURS}:Appended={{"size": 1}}', ["cannot wrap", "TypeError", "size"]),
        (f"{OURS}:not_a_wrapper", ["returns int, not a gymnasium.Env", "gymnasium.Wrapper"]),
    ],
)
def test_a_wrapper_that_fails_is_named(wrapper, words):
    with pytest.raises(UserError) as caught:
        make_env(EnvConfig(id=COUNTING, wrappers=(wrapper,)))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("wrapper", ["Appended", "m:", ":W", "m:W={", "m:W=[1]"])
def test_what_is_no_wrapper_is_refused_at_once(wrapper):
    with pytest.raises(UserError, match=r"env\.wrappers = .*(module:Wrapper|JSON)"):
        EnvConfig(wrappers=(wrapper,))


def test_policies_and_evaluations_of_a_run_use_its_wrappers_and_say_so(tmp_path, capfd):
    changes = {"env.id": COUNTING, "env.wrappers": (APPENDED,)}
    own = run_of(tmp_path / "own", changes | {"evaluation.env_kwargs": '{"length": 7}'})
    saved = json.loads((own / "config.json").read_text())
    assert saved["env"]["wrappers"] == [APPENDED]
    capfd.readouterr()
    assert load_policy(own).act(np.zeros(4)) in range(3)
    assert capfd.readouterr().err == "", "the policy needs no wrapper"
    theirs = shutil.copytree(own, tmp_path / "theirs")
    assert run(["evaluate", str(theirs), "--episodes", "3", "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["lengths"] == [7] * 3, "the evaluations' own arguments"
    assert f"{OURS} (env.wrappers = {APPENDED!r})" in said.err


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_actions_can_be_python_integers(vectorization):
    wrappers = ("hvd_dqn.envs:IntegerActions",)
    config = EnvConfig(
        id="tests.envs.awkward:Pythonic", wrappers=wrappers, vectorization=vectorization
    )
    envs = make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: 0)
    try:
        envs.reset()
        assert envs.step(np.ones(2, np.int64)).reward.tolist() == [1, 1]
    finally:
        envs.close()


def test_a_functions_environment_trains_is_evaluated_and_played(tmp_path, capfd):
    changes = {
        "env.id": f"{OURS}:painted",
        "env.kwargs": {"length": 4},
        "evaluation.env_kwargs": {"length": 6},
    }
    own = run_of(tmp_path / "own", changes)
    capfd.readouterr()
    assert run(["evaluate", str(own), "--episodes", "2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["lengths"] == [6, 6]
    video = tmp_path / "episode.gif"
    assert run(["play", str(own), "--video", str(video)]) == 0
    assert video.stat().st_size > 0
