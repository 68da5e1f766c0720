"""EnvPool, if it is installed."""

import numpy as np
import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env
from tests.short_runs import run_of


def make(env_id="envpool:CartPole-v1", kwargs="{}", num_envs=3, **options):
    return make_vector_env(
        EnvConfig(id=env_id, kwargs=kwargs, **options),
        num_envs=num_envs,
        episode_seed=lambda copy, number: 100 * copy + number,
    )


@pytest.mark.parametrize(
    ("env_id", "package", "extra"),
    [
        ("envpool:CartPole-v1", "envpool", "envpool"),
        ("gymnax:CartPole-v1", "gymnax", "jax"),
        ("jumanji:Snake-v1", "jumanji", "jax"),
    ],
)
def test_a_missing_package_is_named_instead_of_another_environment(
    monkeypatch, env_id, package, extra
):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}.*pip install 'hvd_dqn\[{extra}\]'"):
        make(env_id)


@pytest.mark.parametrize("prefix", ["envpool", "gymnax", "jumanji"])
def test_options_of_single_environments_are_refused(prefix):
    with pytest.raises(UserError, match=r"env\.wrappers.*single environments"):
        make(f"{prefix}:CartPole-v1", wrappers=("gymnasium.wrappers:FlattenObservation",))
    with pytest.raises(UserError, match="steps all copies in one call"):
        make(f"{prefix}:CartPole-v1", vectorization="async")


def test_every_step_is_one_of_cartpoles():
    pytest.importorskip("envpool")
    envs = make(kwargs='{"max_episode_steps": 15}')
    obs = envs.reset()
    rng, lengths, cut = np.random.default_rng(0), [], 0
    for _ in range(200):
        action = rng.integers(0, 2, 3)
        step = envs.step(action)
        # x moves by 0.02 s times the velocity: a step into another episode would not fit
        np.testing.assert_allclose(
            step.next_obs[:, 0], obs[:, 0] + 0.02 * obs[:, 1], rtol=1e-4, atol=1e-5
        )
        faster = step.next_obs[:, 1] > obs[:, 1]
        np.testing.assert_array_equal(faster, action == 1)
        lengths += [e.length for e in step.episodes]
        cut += int(step.truncated.sum())
        fallen = (abs(step.next_obs[:, 2]) > 0.2095) | (abs(step.next_obs[:, 0]) > 2.4)
        # an episode that ends at its limit is truncated for EnvPool, even if the pole fell
        np.testing.assert_array_equal(step.terminated, fallen & ~step.truncated)
        assert (abs(step.obs[step.ended]) <= 0.05).all(), "a first observation"
        obs = step.obs
    assert max(lengths) == 15
    assert 0 < cut == lengths.count(15)
    envs.close()


def test_all_episodes_begin_again_if_all_are_reset():
    pytest.importorskip("envpool")
    envs = make()
    first = envs.reset().copy()
    envs.step(np.zeros(3, np.int64))
    np.testing.assert_array_equal(envs.reset(), first)
    assert len(np.unique(first[:, 0])) == 3, "each copy has its seed"
    assert envs.load_state_dict(envs.state_dict()).all(), "one episode cannot be replayed"


def test_names_that_are_not_envpools_are_refused():
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match=r"EnvPool has no 'CartPole-v9'.*CartPole-v"):
        make("envpool:CartPole-v9")
    with pytest.raises(UserError, match="wheels"):
        make(kwargs='{"wheels": 3}')


def test_a_run_trains_on_goals_with_continuous_actions(tmp_path):
    pytest.importorskip("envpool")
    run = run_of(tmp_path / "run", {"env.id": "envpool:Parking-v0"})
    assert (run / "final.json").exists()
