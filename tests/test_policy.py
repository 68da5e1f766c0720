"""A policy outside its run: its actions, its dependencies and its errors."""

import json
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch

import hvd_dqn
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.envs import make_vector_env
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.spaces.description import describe, observations_of
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import clean_environment
from tests.short_runs import run_of

STACKED = {
    "env.id": "MinAtar/Breakout-v1",
    "env.num_envs": 3,
    "env.frame_stack": 3,
    "network.noisy": True,
    "total_env_steps": 600,
    "evaluation.max_episode_steps": 20,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on vectors, and one on stacked images."""
    directory = tmp_path_factory.mktemp("runs")
    for name, changes in (("vectors", {}), ("images", STACKED)):
        train(small_config().changed(changes), LocalCommunicator(), RunDirectory(directory / name))
    return directory


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(np.array([-4.8, -np.inf]), np.array([4.8, np.inf]), dtype=np.float32),
        gym.spaces.Box(0, 255, (84, 84), np.uint8),
        gym.spaces.Box(0, 1, (10, 10, 4), np.bool_),
        gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        gym.spaces.Box(0, np.iinfo(np.int64).max, (2,), np.int64),
        gym.spaces.Box(np.iinfo(np.int64).min, 7, (2,), np.int64),
    ],
    ids=str,
)
def test_a_space_survives_its_file(space):
    assert observations_of(json.loads(json.dumps(describe(space), allow_nan=False))) == space


@pytest.mark.parametrize("name", ["vectors", "images"])
def test_it_acts_like_the_run(runs, name):
    """Compared with the network in the run's environments, which stack the frames themselves."""
    policy = hvd_dqn.load_policy(runs / name, network="newest")
    config = policy.config
    envs = make_vector_env(config.env, num_envs=3, episode_seed=lambda copy, number: 9 * number)
    reference = GreedyPolicy(policy.network, next(policy.network.parameters()).device)
    obs, begins = envs.reset(), np.ones(3, dtype=np.bool_)
    ended = 0
    for _ in range(200):
        newest = obs[:, -envs.frame_shape[0] :]
        raw = newest.transpose(0, 2, 3, 1) if name == "images" else newest
        action = policy.act(raw, begins=begins)
        assert np.array_equal(action, reference(obs))
        step = envs.step(np.random.default_rng(ended).integers(envs.num_actions, size=3))
        obs, begins = step.obs, step.ended
        ended += int(begins.sum())
    assert ended > 3
    envs.close()


def test_one_environment_and_a_batch_agree(runs):
    policy = hvd_dqn.load_policy(runs / "vectors")
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    values = policy.q_values(obs)
    assert values.shape == (5, 2)
    np.testing.assert_allclose(policy.q_values(obs[3]), values[3], rtol=1e-5)
    assert policy.act(obs[3]).shape == ()
    assert policy.act(obs).tolist() == values.argmax(axis=1).tolist()
    with pytest.raises(ValueError, match=r"must be \(4,\), or a batch"):
        policy.act(obs[:, :3])


def test_an_action_can_be_used_as_one(runs):
    policy = hvd_dqn.load_policy(runs / "vectors")
    action = policy.act(np.zeros(4))
    assert isinstance(action, np.integer)
    assert {0: "left", 1: "right"}[action] in ("left", "right")


def test_actions_are_values_of_the_action_space(tmp_path):
    """Each greedy action is the best one by value, counted from the start of the space."""
    kwargs = json.dumps({"first_action": -7})
    place = {"env.id": "tests.envs.toy:ToyCounting-v0", "env.kwargs": kwargs}
    policy = hvd_dqn.load_policy(run_of(tmp_path / "run", place))
    assert policy.action_space == gym.spaces.Discrete(3, start=-7)
    obs = np.random.default_rng(0).normal(size=(40, 2)) * 100
    best = [{0: -7, 1: -6, 2: -5}[int(np.argmax(values))] for values in policy.q_values(obs)]
    assert policy.act(obs).tolist() == best
    assert [policy.act(one) for one in obs] == best
    assert policy.action_space.contains(policy.act(obs[0]))


def test_a_run_of_version_0_1_0_is_read(runs, tmp_path):
    for name, spaces in (("vectors", {}), ("images", {"channels": "last"})):
        place = tmp_path / name
        shutil.copytree(runs / name, place)
        facts = json.loads((place / "run.json").read_text())
        assert facts["spaces"].items() >= spaces.items()
        count = facts["spaces"].pop("action")["n"]
        del facts["spaces"]["channels"]
        facts["spaces"]["num_actions"] = count
        (place / "run.json").write_text(json.dumps(facts))
        before, after = (hvd_dqn.load_policy(directory) for directory in (runs / name, place))
        assert after.action_space == gym.spaces.Discrete(count)
        obs = np.random.default_rng(0).integers(2, size=(5, *before.raw_shape))
        np.testing.assert_array_equal(before.q_values(obs), after.q_values(obs))


def test_values_that_a_policy_cannot_hold_are_refused(runs):
    images, vectors = (hvd_dqn.load_policy(runs / name) for name in ("images", "vectors"))
    with pytest.raises(ValueError, match=r"the policy takes Box\(.*, bool\), not 0.25 \(float64\)"):
        images.act(np.full(images.raw_shape, 0.25))
    with pytest.raises(ValueError, match=r"not nan \(float64\) at \[2\]"):
        vectors.act(np.array([0, 0, np.nan, 0]))


def test_it_is_the_saved_network(runs):
    best = hvd_dqn.load_policy(runs / "vectors")
    saved = best.saved
    same = hvd_dqn.load_policy(str(runs / "vectors"), network=saved.env_steps)
    tensors = safetensors.torch.load_file(saved.path / "network.safetensors")
    for policy in (best, same):
        state = policy.network.state_dict()
        assert state.keys() == tensors.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(UserError, match=r"has no network 7.*one of these env steps"):
        hvd_dqn.load_policy(runs / "vectors", network=7)


def test_spaces_are_those_of_the_last_start(runs, tmp_path):
    place = tmp_path / "resumed"
    shutil.copytree(runs / "vectors", place)
    facts = json.loads((place / "run.json").read_text())
    older = {name: value for name, value in facts.items() if name != "spaces"}
    (place / "run.json").write_text(json.dumps(older | {"resumed": [facts]}))
    assert hvd_dqn.load_policy(place).act(np.zeros(4)).shape == ()


def test_it_imports_neither_mpi_nor_horovod_nor_the_replay(runs):
    code = (
        "import hvd_dqn, numpy as np, sys\n"
        f"policy = hvd_dqn.load_policy({str(runs / 'vectors')!r})\n"
        "print(policy.act(np.zeros(4)))\n"
        "print(sorted(n for n in sys.modules if n in ('horovod', 'mpi4py', 'hvd_dqn.replay')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: (place / "run.json").write_text("{}"), "does not contain the run's spaces"),
        (
            lambda place: (place / "run.json").write_text("[" * 100_000),
            "does not contain the run's spaces",
        ),
        (
            lambda place: (place / "config.json").unlink(),
            "is not a run directory: it has no config.json: name",
        ),
        (lambda place: (place / "networks").rename(place / "else"), "contains no network"),
    ],
    ids=["old", "deep", "no config", "no network"],
)
def test_a_damaged_run_directory_is_rejected(tmp_path, runs, damage, said):
    place = tmp_path / "copy"
    shutil.copytree(runs / "vectors", place)
    damage(place)
    with pytest.raises(UserError, match=said):
        hvd_dqn.load_policy(place)
