"""Running normalisation of observations, against NumPy's mean and variance of all samples."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.config import Config, ConfigError, NetworkConfig, ObjectiveConfig
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks import numpy_network
from hvd_dqn.networks.scaling import RunningScaling
from hvd_dqn.spaces.records import RecordSpace

NORMALIZED = NetworkConfig(hidden_sizes=(8,), normalize_observations=True)


def network_for(space):
    torch.manual_seed(0)
    return make_network(
        NORMALIZED, ObjectiveConfig(), obs_space=space, num_actions=2, device=torch.device("cpu")
    )


@pytest.mark.parametrize(("center", "width"), [(0.0, 1.0), (1e4, 0.5), (-3.0, 1e-3), (1e6, 1e4)])
def test_statistics_are_those_of_all_samples_but_the_first_batch(center, width):
    rng = np.random.default_rng(0)
    batches = (center + width * rng.standard_normal((200, 16, 3))).astype(np.float32)
    scaling = RunningScaling((3,))
    for batch in batches:
        scaling.add(scaling.moments(torch.from_numpy(batch)), len(batch))
    known = batches[1:].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(scaling.mean, known.mean(0), rtol=1e-6, atol=1e-5 * width)
    np.testing.assert_allclose(scaling.variance.sqrt(), known.std(0), rtol=2e-3)
    scaled = scaling(torch.from_numpy(known.astype(np.float32)))
    assert scaled.mean(0).abs().max() < 0.02
    assert (scaled.std(0) - 1).abs().max() < 0.02


def test_what_never_changes_becomes_zero_and_outliers_are_clipped():
    scaling = RunningScaling((2,))
    constant = torch.tensor([[7.0, -1.0], [7.0, 1.0]])
    for _ in range(3):
        scaling.add(scaling.moments(constant), 2)
    torch.testing.assert_close(scaling(constant), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    far = scaling(torch.tensor([[8.0, -1e9]]))
    torch.testing.assert_close(far, torch.tensor([[10.0, -10.0]]))


def test_the_oldest_samples_are_forgotten():
    scaling = RunningScaling((1,))
    for value in (0.0, 5.0):
        for _ in range(40):
            scaling.add(scaling.moments(torch.full((4, 1), value)), 2**17)
    assert scaling.mean.item() > 4.9


def test_each_number_of_a_record_has_its_own_statistics():
    source = gym.spaces.Dict(
        {
            "position": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "room": gym.spaces.Discrete(3),
            "picture": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "height": gym.spaces.Box(-np.inf, np.inf, (), np.float64),
        }
    )
    space = RecordSpace(source).stacked(2)
    network = network_for(space)
    assert network.num_moments == 2 * 3
    source.seed(0)
    for _ in range(100):
        pairs = [[source.sample() for _ in range(2)] for _ in range(16)]
        for obs in (one for pair in pairs for one in pair):
            obs["position"] = 5 + 2 * obs["position"]
        one = RecordSpace(source)
        records = np.stack([np.concatenate([one.pack(obs) for obs in pair]) for pair in pairs])
        network.add_moments(network.moments(torch.from_numpy(records)), 16)
    scalings = [m for m in network.modules() if isinstance(m, RunningScaling)]
    values = {scaling.shape: scaling for scaling in scalings}
    torch.testing.assert_close(values[(2,)].mean, torch.full((2,), 5.0), rtol=0.05, atol=0)
    torch.testing.assert_close(values[(2,)].variance, torch.full((2,), 4.0), rtol=0.2, atol=0)
    assert values[(1,)].mean.abs().item() < 0.2


def test_numpy_computes_the_same_and_sees_new_statistics():
    network = network_for(gym.spaces.Box(-np.inf, np.inf, (3,), np.float32))
    on_host = numpy_network(network)
    obs = np.array([[1.0, -20.0, 300.0], [1e9, 0.0, 0.0]], dtype=np.float32)
    for _ in range(3):
        with torch.no_grad():
            expected = network(torch.from_numpy(obs)).numpy()
        np.testing.assert_allclose(on_host(obs), expected, rtol=1e-5, atol=1e-6)
        batch = torch.randn(32, 3) * 100 + 50
        network.add_moments(network.moments(batch), 32)


def test_bytes_and_images_are_scaled_as_before():
    for space in (
        gym.spaces.Box(0, 255, (4, 36, 36), np.uint8),
        gym.spaces.Box(0, 255, (128,), np.uint8),
        gym.spaces.Box(0, 1, (3, 8, 8), np.float32),
    ):
        assert network_for(space).num_moments == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distributed.average": "parameters"}, "set distributed.average to gradients"),
        ({"distributed.average": "delayed_gradients"}, "set distributed.average to gradients"),
        ({"distributed.average": "server"}, "set distributed.average to gradients"),
        ({"optimizer.cuda_graph": True}, "set optimizer.cuda-graph to False"),
        ({"network.scale_observations": True}, "set that to False"),
    ],
)
def test_what_it_does_not_go_with_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        Config().changed(changes | {"network.normalize_observations": True})
