"""Environments written in JAX, if their packages are installed."""

import numpy as np
import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.spaces.records import RecordSpace
from tests.short_runs import run_of


def make(env_id, kwargs="{}", info_keys=()):
    return make_vector_env(
        EnvConfig(id=env_id, kwargs=kwargs),
        num_envs=3,
        episode_seed=lambda copy, number: 100 * copy + number,
        info_keys=info_keys,
    )


def play(envs, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [envs.step(rng.integers(0, envs.num_actions, 3)) for _ in range(steps)]


def test_gymnaxs_cartpole_is_gymnasiums():
    """The same equations of motion, and the time limit truncates."""
    pytest.importorskip("gymnax")
    envs = make("gymnax:CartPole-v1", '{"max_steps_in_episode": 15}')
    obs = envs.reset()
    rng, ends = np.random.default_rng(0), []
    for _ in range(150):
        action = rng.integers(0, 2, 3)
        step = envs.step(action)
        np.testing.assert_allclose(
            step.next_obs[:, 0], obs[:, 0] + 0.02 * obs[:, 1], rtol=1e-4, atol=1e-5
        )
        fallen = (abs(step.next_obs[:, 2]) > 12 * np.pi / 180) | (abs(step.next_obs[:, 0]) > 2.4)
        np.testing.assert_array_equal(step.terminated, fallen)
        ends += [(e.length, bool(step.truncated[i])) for i, e in _ended(step)]
        assert (abs(step.obs[step.ended]) <= 0.05).all(), "a first observation"
        obs = step.obs
    assert {cut for length, cut in ends if length == 15} == {True}
    assert {cut for length, cut in ends if length < 15} == {False}


def _ended(step):
    return zip(np.flatnonzero(step.ended), step.episodes, strict=True)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "package"),
    [
        ("gymnax:Breakout-MinAtar", "{}", "gymnax"),
        ("jumanji:Snake-v1", '{"observe": "grid"}', "jumanji"),
    ],
)
def test_episodes_are_replayed_from_their_seeds(env_id, kwargs, package):
    pytest.importorskip(package)
    first, second = make(env_id, kwargs), make(env_id, kwargs)
    first.reset()
    second.reset()
    assert any(step.episodes for step in play(first, 60))
    assert not second.load_state_dict(first.state_dict()).any()
    for ours, theirs in zip(play(first, 20, 1), play(second, 20, 1), strict=True):
        np.testing.assert_array_equal(ours.next_obs, theirs.next_obs)


def test_the_parts_of_a_jumanji_observation_are_a_record_or_one_of_them():
    pytest.importorskip("jumanji")
    every, grid = make("jumanji:Snake-v1"), make("jumanji:Snake-v1", '{"observe": "grid"}')
    assert isinstance(every.raw_space, RecordSpace)
    assert [field.name for field in every.raw_space.fields] == ["grid", "step_count", "action_mask"]
    assert grid.raw_space.shape == (12, 12, 5)
    # as stored, the grid's channels come first
    cells = grid.reset().transpose(0, 2, 3, 1)
    records = every.reset().view(every.raw_space.layout)[:, 0]
    np.testing.assert_array_equal(records["grid"], cells)
    legal = every.legal_actions(every.obs)
    assert legal.shape == (3, 4)
    while legal.all():
        legal = every.legal_actions(every.step(legal.argmax(axis=1)).obs)
    assert legal.any(axis=1).all(), "at a wall, all but one direction"
    with pytest.raises(UserError, match=r"observe = 'map'.*grid"):
        make("jumanji:Snake-v1", '{"observe": "map"}')


def test_masks_of_combinations_are_in_their_order():
    pytest.importorskip("jumanji")
    envs = make("jumanji:Tetris-v0")
    assert envs.num_actions == 40
    legal = envs.legal_actions(envs.reset())
    assert 0 < legal.sum() < legal.size
    for _ in range(5):
        step = envs.step(envs.legal_actions(envs.obs).argmax(axis=1))
        assert np.isfinite(step.reward).all()


def test_names_and_arguments_that_do_not_exist_are_refused():
    pytest.importorskip("gymnax")
    with pytest.raises(UserError, match=r"gymnax has no 'Cartpole-v1'.*'CartPole-v1'"):
        make("gymnax:Cartpole-v1")
    with pytest.raises(UserError, match="wheels"):
        make("gymnax:CartPole-v1", '{"wheels": 3}')


@pytest.mark.parametrize("env_id", ["gymnax:Catch-bsuite", "gymnax:Pendulum-v1"])
def test_a_run_trains_in_them(env_id, tmp_path):
    pytest.importorskip("gymnax")
    run = run_of(tmp_path / "run", {"env.id": env_id})
    assert (run / "final.json").exists()


def test_a_run_trains_on_records_with_masks(tmp_path):
    pytest.importorskip("jumanji")
    run = run_of(tmp_path / "run", {"env.id": "jumanji:Game2048-v1"})
    assert (run / "final.json").exists()
