"""The NumPy forward pass gives torch's values, except for rounding, and follows the parameters."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from hvd_dqn.acting.greedy import GreedyPolicy, LatePolicy
from hvd_dqn.config import NetworkConfig, ObjectiveConfig
from hvd_dqn.learner.flat_buffer import FlatParameters
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks import numpy_network

CPU = torch.device("cpu")
SPACE = gym.spaces.Box(-2, 3, (37,))


def make(objective=None, space=SPACE, **config):
    torch.manual_seed(0)
    network = make_network(
        NetworkConfig(**config),
        objective or ObjectiveConfig(),
        obs_space=space,
        num_actions=3,
        device=CPU,
    )
    for parameter in network.parameters():  # LayerNorm's begin at ones and zeros
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def observations(rows, space=SPACE):
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, *space.shape)).astype(np.float32)


def by_torch(network, obs):
    with torch.no_grad():
        network.prepare(None, learning=False)
        return network(torch.from_numpy(obs)).numpy()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_sizes": (3,)},
        {"hidden_sizes": (64, 33, 18)},
        {"layer_norm": True, "hidden_sizes": (40, 17)},
        {"dueling": True, "scale_observations": True, "dropout": 0.5},
    ],
)
def test_values_are_torchs(config, rows):
    network = make(**config)
    obs = observations(rows)
    before = obs.copy()
    on_host = numpy_network(network)
    np.testing.assert_allclose(on_host(obs), by_torch(network, obs), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(obs, before)


def test_it_sees_every_change_of_the_parameters():
    network = make()
    on_host, obs = numpy_network(network), observations(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-0.5)
    np.testing.assert_allclose(on_host(obs), by_torch(network, obs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [False, True])
def test_it_follows_parameters_that_move_in_memory(scale):
    network = make(layer_norm=True, scale_observations=scale)
    on_host, obs = numpy_network(network), observations(2)
    moves = [
        lambda: FlatParameters(network),  # as a learner does
        lambda: network.load_state_dict(
            {name: 2 * tensor for name, tensor in network.state_dict().items()}, assign=True
        ),
        lambda: setattr(network.head.layers[0], "bias", torch.nn.Parameter(torch.ones(3))),
        lambda: network.double().float(),
        lambda: network.head.layers.__setitem__(0, torch.nn.Linear(256, 3)),
    ]
    for move in moves:
        before = on_host(obs)
        move()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(-0.5)
        assert not np.allclose(on_host(obs), before)
        np.testing.assert_allclose(on_host(obs), by_torch(network, obs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "move",
    [
        FlatParameters,
        lambda network: network.double().float(),
        lambda network: network.load_state_dict(
            {name: 2 * tensor for name, tensor in network.state_dict().items()}, assign=True
        ),
        lambda network: setattr(
            network.head.layers[0], "bias", torch.nn.Parameter(torch.full((3,), 9.0))
        ),
    ],
)
def test_a_late_copy_follows_parameters_that_move_in_memory(move):
    network = make(scale_observations=True)
    policy, obs = LatePolicy(network, CPU), observations(2)
    move(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-0.5)
    assert not np.allclose(policy.values(obs), by_torch(network, obs))
    policy.follow()
    np.testing.assert_allclose(policy.values(obs), by_torch(network, obs), rtol=1e-5, atol=1e-6)
    late = policy.state_dict()["late"]
    assert late.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(late[name], tensor)


def test_a_late_copy_notices_other_layers():
    network = make()
    policy = LatePolicy(network, CPU)
    network.head.layers[0] = torch.nn.Linear(256, 3)
    with pytest.raises(RuntimeError, match="a layer of the network was replaced"):
        policy.follow()


def test_images_as_they_come_are_flattened():
    space = gym.spaces.Box(0, 1, (2, 5, 5), np.uint8)
    network = make(space=space, torso="mlp")
    obs = np.random.default_rng(0).integers(0, 2, (3, 2, 5, 5)).astype(np.uint8)
    np.testing.assert_allclose(
        numpy_network(network)(obs), by_torch(network, obs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("config", "objective", "space"),
    [
        ({"noisy": True}, {}, SPACE),
        ({"precision": "bfloat16"}, {}, SPACE),
        ({}, {"distribution": "categorical"}, SPACE),
        ({}, {"distribution": "implicit_quantile"}, SPACE),
        ({}, {}, gym.spaces.Box(0, 1, (4, 10, 10), np.uint8)),
    ],
)
def test_other_networks_are_torchs_alone(config, objective, space):
    network = make(ObjectiveConfig(**objective), space, **config)
    assert numpy_network(network) is None
    obs = np.zeros((2, *space.shape), dtype=space.dtype)
    np.testing.assert_array_equal(GreedyPolicy(network, CPU).values(obs), by_torch(network, obs))


def test_many_observations_are_torchs():
    network = make(hidden_sizes=(256,))
    assert numpy_network(network).is_faster(8)
    assert not numpy_network(network).is_faster(1000)
    obs = observations(1000)
    np.testing.assert_array_equal(GreedyPolicy(network, CPU).values(obs), by_torch(network, obs))


def test_what_is_no_number_stays_none():
    network = make()
    obs = observations(2)
    obs[1, 5] = np.nan
    values = numpy_network(network)(obs)
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1]).all()


def test_numpys_products_have_one_thread():
    numpy_network(make())
    threads = [
        library["num_threads"]
        for library in threadpool_info()
        if library["user_api"] == "blas" and "numpy" in library["filepath"]
    ]
    assert set(threads) <= {1}
