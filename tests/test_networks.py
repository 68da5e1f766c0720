import gymnasium as gym
import numpy as np
import torch

from hvd_dqn.config import NetworkConfig
from hvd_dqn.networks import make_network
from hvd_dqn.networks.qnetwork import BoundsScaling

CPU = torch.device("cpu")


def test_bounded_components_are_scaled_and_unbounded_ones_pass():
    low = np.array([-1.2, -0.07, -np.inf, -3.4e38, 5.0])
    high = np.array([0.6, 0.07, np.inf, 3.4e38, 5.0])
    scaling = BoundsScaling(low, high)
    corners = torch.tensor([[-1.2, -0.07, 7.0, 8.0, 5.0], [0.6, 0.07, -7.0, -8.0, 5.0]])
    expected = torch.tensor([[-1.0, -1.0, 7.0, 8.0, 5.0], [1.0, 1.0, -7.0, -8.0, 5.0]])
    torch.testing.assert_close(scaling(corners), expected)


def test_the_mlp_has_the_widths_asked_for_and_takes_bytes():
    space = gym.spaces.Box(0, 255, (2, 3), np.uint8)
    config = NetworkConfig(hidden_sizes=(7, 5))
    network = make_network(config, obs_space=space, num_actions=4, device=CPU)
    assert sum(p.numel() for p in network.parameters()) == 6 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4
    black, white = network(
        torch.stack([torch.zeros(2, 3), torch.full((2, 3), 255)]).to(torch.uint8)
    )
    assert black.shape == (4,)
    assert not torch.allclose(black, white)


def test_scaling_can_be_left_out():
    space = gym.spaces.Box(-100, 100, (2,))
    config = NetworkConfig(hidden_sizes=(4,), scale_observations=False)
    network = make_network(config, obs_space=space, num_actions=2, device=CPU)
    obs = torch.tensor([[3.0, 50.0]])
    torch.testing.assert_close(network(obs), network.head(network.torso(obs)))


def test_dueling_is_value_plus_centred_advantage():
    torch.manual_seed(0)
    space = gym.spaces.Box(-1, 1, (3,))
    config = NetworkConfig(hidden_sizes=(8,), dueling=True)
    network = make_network(config, obs_space=space, num_actions=4, device=CPU)
    features = network.torso(torch.randn(5, 3))
    value, advantage = network.head.value(features), network.head.advantage(features)
    q = network.head(features)
    torch.testing.assert_close(q.mean(dim=1, keepdim=True), value)
    torch.testing.assert_close(q - q[:, :1], advantage - advantage[:, :1])
    with torch.no_grad():
        network.head.advantage.bias += 100  # what all actions share is no advantage
    torch.testing.assert_close(network.head(features), q, rtol=1e-4, atol=1e-4)


def test_layer_norm_stands_before_the_relu():
    space = gym.spaces.Box(-1, 1, (3,))
    config = NetworkConfig(hidden_sizes=(8, 8), layer_norm=True)
    network = make_network(config, obs_space=space, num_actions=2, device=CPU)
    kinds = [type(layer).__name__ for layer in network.torso]
    assert kinds == ["Flatten", *["Linear", "LayerNorm", "ReLU"] * 2]
    obs = torch.randn(4, 3)
    before = network(obs)
    with torch.no_grad():
        network.torso[1].weight *= 1000
        network.torso[1].bias *= 1000
    torch.testing.assert_close(network(obs), before, rtol=1e-3, atol=1e-3)
