"""highway-env: simulations whose observations are tables of vehicles, or images."""

import json

import numpy as np
import torch

from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.config import EnvConfig, NetworkConfig, ObjectiveConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.methods.registry import make_network

IMAGE = {
    "type": "GrayscaleObservation",
    "observation_shape": [64, 32],
    "stack_size": 1,
    "weights": [0.3, 0.6, 0.1],
}
# Fewer and shorter simulations keep the tests fast.
SMALL = {"vehicles_count": 5, "duration": 6, "simulation_frequency": 5}


def make(num_envs=2, *, seed=lambda copy, number: 100 * copy + number, observation=None, **fields):
    config = SMALL | ({} if observation is None else {"observation": observation})
    return make_vector_env(
        EnvConfig(id="highway-fast-v0", kwargs=json.dumps({"config": config}), **fields),
        num_envs=num_envs,
        episode_seed=seed,
        max_episode_steps=1000,
    )


def test_kinematics_reach_the_network_as_they_are():
    envs = make(frame_stack=2)
    assert envs.frame_shape == (5, 5)
    assert envs.obs_space.shape == (10, 5)
    assert envs.obs_dtype == np.float32
    network = make_network(
        NetworkConfig(hidden_sizes=(16,)),
        ObjectiveConfig(),
        obs_space=envs.obs_space,
        num_actions=envs.num_actions,
        device=torch.device("cpu"),
    )
    policy = GreedyPolicy(network, torch.device("cpu"))
    obs, ended = envs.reset(), 0
    assert not obs[:, :5].any()
    assert (obs[:, 5, 0] == 1).all()  # the row of the vehicle itself: present
    for _ in range(15):
        step = envs.step(policy(obs))
        ended += int(step.ended.sum())
        assert np.isfinite(step.next_obs).all()
        obs = step.obs
    assert ended >= 2
    envs.close()


def test_images_come_channels_first_as_bytes():
    envs = make(observation=IMAGE, frame_stack=3)
    assert envs.frame_shape == (1, 64, 32)
    assert envs.obs_space.shape == (3, 64, 32)
    obs = envs.reset()
    assert obs.dtype == np.uint8
    assert len(np.unique(obs[:, -1])) > 2
    envs.close()


def test_processes_of_their_own_play_the_same_episodes():
    played = []
    for vectorization in ("sync", "async"):
        envs = make(vectorization=vectorization)
        trace = [envs.reset()]
        rng = np.random.default_rng(0)
        ended = 0
        for _ in range(20):
            step = envs.step(rng.integers(envs.num_actions, size=2))
            trace += [step.next_obs, step.obs, step.reward, step.terminated, step.truncated]
            ended += int(step.ended.sum())
        envs.close()
        assert ended >= 4
        played.append(trace)
    for one, other in zip(*played, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_episode_depends_on_nothing_but_its_seed():
    fresh = make(num_envs=1, seed=lambda copy, number: 7)
    used = make(num_envs=1, seed=lambda copy, number: 7 if number == 1 else 0)
    expected = [fresh.reset()] + [fresh.step(np.array([a])).next_obs for a in (0, 3, 1)]
    used.reset()
    while not (step := used.step(np.array([3]))).ended[0]:
        assert not np.array_equal(step.next_obs, expected[1])
    seen = [step.obs] + [used.step(np.array([a])).next_obs for a in (0, 3, 1)]
    np.testing.assert_array_equal(seen, expected)
    fresh.close()
    used.close()
