"""MinAtar through Gymnasium and our stacks, against the bare games."""

import warnings

import minatar
import numpy as np
import pytest

from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_env, make_vector_env

GAMES = {
    "Breakout": ("breakout", (4, 10, 10)),
    "Seaquest": ("seaquest", (10, 10, 10)),
    "SpaceInvaders": ("space_invaders", (6, 10, 10)),
    "Freeway": ("freeway", (7, 10, 10)),
    "Asterix": ("asterix", (4, 10, 10)),
}


def seed(copy: int, number: int) -> int:
    return 2**31 - 1 - 1000 * copy - number


def fresh(game, seed):
    env = minatar.Environment(game)
    env.seed(seed)
    env.reset()
    return env


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_the_versions_differ_in_their_actions_without_a_warning(version):
    config = EnvConfig(id=f"MinAtar/Breakout-{version}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_env(config)
    assert (
        env.action_space.n
        == {"v0": 6, "v1": len(fresh("breakout", 0).minimal_action_set())}[version]
    )
    env.close()


@pytest.mark.parametrize("name", sorted(GAMES))
def test_every_episode_is_that_of_a_fresh_game(name):
    """Fresh, so that nothing of the episode before may matter: not its last action either."""
    game, shape = GAMES[name]
    envs = make_vector_env(
        EnvConfig(id=f"MinAtar/{name}-v1"), num_envs=2, episode_seed=seed, max_episode_steps=300
    )
    assert envs.frame_shape == envs.obs_space.shape == shape
    assert envs.obs_dtype == np.uint8
    bare = [fresh(game, seed(copy, 0)) for copy in range(2)]
    minimal = bare[0].minimal_action_set()
    assert envs.num_actions == len(minimal)
    obs, numbers, returns = envs.reset(), [0, 0], [0.0, 0.0]
    rng, episodes = np.random.default_rng(0), 0
    for _ in range(700):
        action = rng.integers(envs.num_actions, size=2)
        step = envs.step(action)
        ended = []
        for copy, env in enumerate(bare):
            np.testing.assert_array_equal(obs[copy], env.state().transpose(2, 0, 1))
            reward, terminal = env.act(minimal[action[copy]])
            returns[copy] += reward
            np.testing.assert_array_equal(step.next_obs[copy], env.state().transpose(2, 0, 1))
            assert step.reward[copy] == reward
            assert step.terminated[copy] == terminal
            if step.ended[copy]:
                ended.append(returns[copy])
                numbers[copy] += 1
                returns[copy] = 0.0
                bare[copy] = fresh(game, seed(copy, numbers[copy]))
        assert [episode.episode_return for episode in step.episodes] == ended
        episodes += len(ended)
        obs = step.obs
    envs.close()
    assert episodes >= 4
    assert obs.max() == 1
