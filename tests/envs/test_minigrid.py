"""MiniGrid by its ids: codes one-hot, missions left out or as tokens."""

import numpy as np
import pytest
import torch

from hvd_dqn.config import EnvConfig, NetworkConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.networks.unpack import Unpack

pytest.importorskip("minigrid")


def made(**settings):
    config = EnvConfig(id="MiniGrid-Empty-5x5-v0", **settings)
    return make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: copy)


def test_the_network_gets_the_cells_codes():
    envs = made()
    obs = envs.reset()
    assert envs.raw_space.summary() == (
        "direction (one of 4), image (grid 7 × 7 of 11 · 6 · 4 codes); "
        "without the text mission: see --env.text"
    )
    direction, planes = Unpack(NetworkConfig(), envs.obs_space)(torch.from_numpy(obs))
    assert direction.sum(dim=1).tolist() == [1, 1]
    assert planes.shape == (2, 21, 7, 7)
    # one object, one colour and one state in each cell
    for first, last in ((0, 11), (11, 17), (17, 21)):
        assert (planes[:, first:last].sum(dim=1) == 1).all()
    envs.close()


def test_missions_become_tokens():
    envs = made(text="tokens")
    space = envs.raw_space
    words = envs.reset().view(space.layout)["mission"]
    assert (words != 0).any()
    np.testing.assert_array_equal(words[0], words[1])  # "get to the green goal square"
    envs.close()
