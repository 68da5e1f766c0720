"""Observations that their space cannot hold are refused, in this process and in others."""

import json

import gymnasium as gym
import numpy as np
import pytest

from hvd_dqn.commands import cli
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env, observations
from hvd_dqn.envs.interface import EnvironmentFailedError
from hvd_dqn.envs.observations import find_outlier, find_problem

BYTES = gym.spaces.Box(0, 255, (2,), np.uint8)
BITS = gym.spaces.Box(0, 1, (2,), np.bool_)
COUNTS = gym.spaces.Box(-(2**62), 2**62, (2,), np.int64)
SHARES = gym.spaces.Box(0, 1, (2,), np.float32)
ANGLES = gym.spaces.Box(-np.pi, np.pi, (2,), np.float32)
FREE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
DOUBLES = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
WIDEST = gym.spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "values", "dtype"),
    [
        (BYTES, [0, 255], np.uint8),
        (BYTES, [0, 255], np.int64),
        (BYTES, [3.0, 200.0], np.float32),
        (BYTES, [True, False], np.bool_),
        (BITS, [True, False], np.bool_),
        (BITS, [1, 0], np.int64),
        (COUNTS, [2**24, -(2**24)], np.int64),
        (COUNTS, [2**40, 2**24 + 2], np.int64),
        (SHARES, [0.1, 1.000001], np.float64),
        (ANGLES, [np.pi, -np.pi], np.float64),
        (FREE, [1e30, -1e-30], np.float64),
        (FREE, [1, -7], np.int64),
        (DOUBLES, [0.1, 1.7e9 + 0.3], np.float64),
        (WIDEST, [1e38, -1e38], np.float32),
    ],
)
def test_what_fits_is_accepted(space, values, dtype):
    assert find_problem(np.array(values, dtype), space) == ""


@pytest.mark.parametrize(
    ("space", "values", "dtype", "said"),
    [
        (BYTES, [3, 0.9], np.float32, "0.9 (float32) at [1], which becomes 0 in that space"),
        (BYTES, [-3, 5], np.int64, "-3 (int64) at [0], which becomes 253 in that space"),
        (BYTES, [5, 300], np.int32, "300 (int32) at [1], which becomes 44 in that space"),
        (BITS, [1, 255], np.uint8, "255 (uint8) at [1], which becomes True in that space"),
        (COUNTS, [0, 0.5], np.float64, "0.5 (float64) at [1], which becomes 0 in that space"),
        (COUNTS, [2**24 + 1, 0], np.int64, "16777217 (int64) at [0], which becomes 16777216 in fl"),
        (COUNTS, [0, 2**62 - 1], np.int64, "4611686018427387903 (int64) at [1], which becomes 46"),
        (COUNTS, [0, -(2**63)], np.int64, "-9223372036854775808 (int64) at [1], below the bound"),
        (DOUBLES, [0, 2.0**24 + 1], np.float64, "16777217.0 (float64) at [1], which becomes 1677"),
        (DOUBLES, [1e39, 0], np.float64, "1e+39 (float64) at [0], which becomes inf in float32"),
        (FREE, [0, 1e300], np.float64, "1e+300 (float64) at [1], which becomes inf in float32"),
        (FREE, [0, np.nan], np.float32, "nan (float32) at [1], from which nothing can be learned"),
        (FREE, [np.inf, 0], np.float64, "inf (float64) at [0], from which nothing"),
        (gym.spaces.Box(0, 1, (2,), np.uint8), [0, 7], np.uint8, "7 (uint8) at [1], above the b"),
        (FREE, ["a", "b"], object, "values of type object, which are not numbers"),
    ],
)
def test_what_does_not_fit_is_named(space, values, dtype, said):
    assert find_problem(np.array(values, dtype), space).startswith(said)


@pytest.mark.parametrize(
    ("values", "dtype", "said"),
    [
        ([0, 1.01], np.float32, "1.01 (float32) at [1], above the bound 1.0"),
        ([-0.5, 1], np.float64, "-0.5 (float64) at [0], below the bound 0.0"),
        ([0, 1.000001], np.float64, ""),
    ],
)
def test_a_float_out_of_bounds_is_named_and_used(values, dtype, said):
    obs = np.array(values, dtype)
    assert find_outlier(obs, SHARES) == said
    assert find_problem(obs, SHARES) == ""


def test_an_environment_that_passes_its_bounds_trains_with_one_warning(capfd, monkeypatch):
    monkeypatch.setattr(observations, "_told_of_outliers", set())
    envs = make_vector_env(
        EnvConfig(id="tests.envs.toy:ToyBeyond-v0"),
        num_envs=2,
        episode_seed=lambda copy, number: 3,
    )
    play(envs, 3)
    assert (envs.obs == [0.5, 1.25]).all()
    envs.close()
    assert capfd.readouterr().err.count("the bound") == 1


def lying(vectorization="sync", check_observations=100, restarts=1, **kwargs):
    config = EnvConfig(
        id="tests.envs.toy:ToyLying-v0",
        vectorization=vectorization,
        kwargs=json.dumps(kwargs),
        restarts=restarts,
        check_observations=check_observations,
    )
    return make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: number)


def play(envs, steps):
    envs.reset()
    for _ in range(steps):
        envs.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"value": 0.9}, r"declares Box\(0, 255, \(2,\), uint8\) and observes 0.9 \(float64\)"),
        ({"size": 1}, r"and observes an array of float64 of shape \(1,\)"),
        ({"value": 300, "after": 3}, r"observes 300.0 \(float64\) at \[0\], which becomes 44 in"),
        ({"size": 1, "after": 3}, r"observes an array of float64 of shape \(1,\)"),
    ],
    ids=["values at reset", "shape at reset", "values in a step", "shape in a step"],
)
def test_both_kinds_of_copies_refuse_the_same(vectorization, kwargs, said):
    envs = lying(vectorization, **kwargs)
    try:
        with pytest.raises(Exception, match=said):  # a process may wrap it
            play(envs, 3)
    finally:
        envs.close()


def test_only_the_first_values_are_checked_and_every_shape():
    envs = lying(value=0.9, after=3, check_observations=3)
    play(envs, 4)
    assert (envs.obs == 0).all(), "as cast"
    envs.close()
    envs = lying(size=1, after=3, check_observations=0, restarts=0)
    with pytest.raises(EnvironmentFailedError, match=r"copy 0 .* has the shape \(1,\)"):
        play(envs, 3)
    envs.close()


@pytest.mark.parametrize("after", [0, 30])
def test_a_run_is_refused_in_one_line(after, tmp_path, capfd):
    """At the first reset, before anything is written; later, without a traceback."""
    kwargs = json.dumps({"value": 0.9, "after": after})
    run_dir = tmp_path / "run"
    options = ["--env.id", "tests.envs.toy:ToyLying-v0", "--env.kwargs", kwargs]
    options += ["--network.scale-observations", "False", "--logging.loggers"]
    code = cli.run(["train", "cartpole", *options, "--run-dir", str(run_dir)])
    assert code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "which becomes 0 in that space" in line
    assert "--env.check-observations 0" in line
    assert run_dir.exists() == (after > 0)
