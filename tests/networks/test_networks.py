import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.config import ConfigError, NetworkConfig, ObjectiveConfig
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks import multiply_adds
from hvd_dqn.networks.layers import NoisyLinear, SpectralConv2d
from hvd_dqn.networks.scaling import BoundsScaling

CPU = torch.device("cpu")
EXPECTED = ObjectiveConfig()


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
    network = make_network(config, EXPECTED, obs_space=space, num_actions=4, device=CPU)
    assert sum(p.numel() for p in network.parameters()) == 6 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4
    black, white = network(
        torch.stack([torch.zeros(2, 3), torch.full((2, 3), 255)]).to(torch.uint8)
    )
    assert black.shape == (4,)
    assert not torch.allclose(black, white)


def test_scaling_can_be_left_out():
    space = gym.spaces.Box(-100, 100, (2,))
    config = NetworkConfig(hidden_sizes=(4,), scale_observations=False)
    network = make_network(config, EXPECTED, obs_space=space, num_actions=2, device=CPU)
    obs = torch.tensor([[3.0, 50.0]])
    torch.testing.assert_close(network(obs), network.head(network.torso(obs)).squeeze(2))


def test_dueling_is_value_plus_centred_advantage():
    torch.manual_seed(0)
    space = gym.spaces.Box(-1, 1, (3,))
    config = NetworkConfig(hidden_sizes=(8,), dueling=True)
    network = make_network(config, EXPECTED, obs_space=space, num_actions=4, device=CPU)
    features = network.torso(torch.randn(5, 3))
    value, advantage = network.head.value(features), network.head.advantage(features)
    q = network.head(features).squeeze(2)
    torch.testing.assert_close(q.mean(dim=1, keepdim=True), value)
    torch.testing.assert_close(q - q[:, :1], advantage - advantage[:, :1])
    with torch.no_grad():
        network.head.advantage[-1].bias += 100  # what all actions share is no advantage
    torch.testing.assert_close(network.head(features).squeeze(2), q, rtol=1e-4, atol=1e-4)


def test_layer_norm_stands_before_the_relu():
    space = gym.spaces.Box(-1, 1, (3,))
    config = NetworkConfig(hidden_sizes=(8, 8), layer_norm=True)
    network = make_network(config, EXPECTED, obs_space=space, num_actions=2, device=CPU)
    kinds = [type(layer).__name__ for layer in network.torso]
    assert kinds == ["Flatten", *["Linear", "LayerNorm", "ReLU"] * 2]
    obs = torch.randn(4, 3)
    before = network(obs)
    with torch.no_grad():
        network.torso[1].weight *= 1000
        network.torso[1].bias *= 1000
    torch.testing.assert_close(network(obs), before, rtol=1e-3, atol=1e-3)


def build(shape, *, actions=3, objective=EXPECTED, dtype=np.uint8, **config):
    torch.manual_seed(0)
    space = gym.spaces.Box(0, 255 if dtype is np.uint8 else 1, shape, dtype)
    return make_network(
        NetworkConfig(**config), objective, obs_space=space, num_actions=actions, device=CPU
    )


def images(shape, count=2):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("shape", "config", "parameters"),
    [
        # Mnih et al. 2015: 8·8·4·32+32 + 4·4·32·64+64 + 3·3·64·64+64 + 3136·512+512 + 512·3+3
        ((4, 84, 84), {"hidden_sizes": (512,)}, 8224 + 32832 + 36928 + 1606144 + 1539),
        # Young & Tian 2019: 3·3·6·16+16 + 1024·128+128 + 128·3+3
        ((6, 10, 10), {"hidden_sizes": (128,)}, 880 + 131200 + 387),
        # Espeholt et al. 2018: per stage a convolution and four of the residual blocks
        (
            (4, 84, 84),
            {"torso": "impala", "hidden_sizes": (256,)},
            (4 * 144 + 16 + 4 * (16 * 144 + 16))
            + (16 * 288 + 32 + 4 * (32 * 288 + 32))
            + (32 * 288 + 32 + 4 * (32 * 288 + 32))
            + (32 * 11 * 11 * 256 + 256 + 256 * 3 + 3),
        ),
    ],
)
def test_convolutional_torsos_have_the_published_sizes(shape, config, parameters):
    network = build(shape, **config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(images(shape)).shape == (2, 3)


def test_pooling_to_more_than_there_is_is_refused():
    with pytest.raises(ConfigError, match=r"reduce .* to 2 rows or columns"):
        build((4, 10, 10), torso="impala", pool_size=6)


def test_scaling_bytes_twice_is_refused():
    with pytest.raises(ConfigError, match=r"network\.scale_observations"):
        build((4, 84, 84), scale_observations=True)


def test_impala_can_be_widened_and_pooled():
    wide = build((4, 84, 84), torso="impala", impala_width=2, pool_size=6, hidden_sizes=(512,))
    assert wide.features(images((4, 84, 84))).shape == (2, 64 * 6 * 6)


def test_bytes_are_scaled_to_one():
    network = build((4, 84, 84))
    assert network.scaling(torch.tensor([255.0])).item() == pytest.approx(1.0)
    binary = make_network(
        NetworkConfig(),
        EXPECTED,
        obs_space=gym.spaces.Box(0, 1, (4, 10, 10), np.uint8),
        num_actions=2,
        device=CPU,
    )
    assert binary.scaling(torch.tensor([1.0])).item() == 1.0


@pytest.mark.parametrize(
    ("shape", "torso", "words"),
    [
        ((4,), "nature", ["network.torso", "(4,)", "mlp"]),
        ((4, 10, 10), "nature", ["36", "auto"]),
        ((4, 19, 40), "mnih2013", ["20", "auto"]),
        ((4, 1, 6), "minatar", ["3", "auto"]),
    ],
)
def test_a_torso_that_cannot_take_the_observation_is_refused(shape, torso, words):
    with pytest.raises(ConfigError) as caught:
        build(shape, torso=torso)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((1, 84, 84), 3),
        ((7, 11, 11), 1),
        ((2, 3, 3), 1),
        ((1, 1, 6), 0),
        ((30, 1, 5), 0),
        ((2, 2, 3), 0),
        ((9, 9), 0),
    ],
)
def test_auto_convolves_images_alone(shape, layers):
    torso = build(shape, torso="auto").torso
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in torso) == layers


def test_dueling_streams_have_hidden_layers_of_their_own_behind_convolutions():
    network = build((4, 84, 84), hidden_sizes=(512,), dueling=True)
    for stream, outputs in ((network.head.value, 1), (network.head.advantage, 3)):
        widths = [(m.in_features, m.out_features) for m in stream if hasattr(m, "in_features")]
        assert widths == [(3136, 512), (512, outputs)]


def test_noise_is_factorised_gaussian_and_can_be_still():
    network = build((3,), dtype=np.float32, hidden_sizes=(400,), noisy=True)
    layer = network.torso[1]
    assert isinstance(layer, NoisyLinear)
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(5, 3)
    still = network(obs)
    torch.testing.assert_close(
        layer(obs), torch.nn.functional.linear(obs, layer.weight, layer.bias)
    )
    drawn = []
    for _ in range(2000):
        layer.prepare(generator, learning=True)
        drawn.append(layer.noise_out.clone())
    noise = torch.cat(drawn)
    # f(x) = sgn(x)·√|x| of a standard normal: mean 0, E f² = E|x| = √(2/π), E f⁴ = E x² = 1
    assert noise.mean().abs() < 0.01
    assert noise.square().mean().item() == pytest.approx(np.sqrt(2 / np.pi), rel=0.01)
    assert noise.pow(4).mean().item() == pytest.approx(1.0, rel=0.02)
    network.prepare(generator, learning=False)
    assert not torch.equal(network(obs), still)
    expected = layer.weight + layer.weight_sigma * layer.noise_out[:, None] * layer.noise_in
    bias = layer.bias + layer.bias_sigma * layer.noise_out
    torch.testing.assert_close(layer(obs), obs @ expected.t() + bias)
    network.prepare(None, learning=False)
    torch.testing.assert_close(network(obs), still)
    assert layer.weight_sigma[0, 0].item() == pytest.approx(0.5 / np.sqrt(3))


def test_dropout_is_for_learning_alone():
    network = build((3,), dtype=np.float32, hidden_sizes=(1000,), dropout=0.25)
    obs = torch.rand(4, 3)
    generator = torch.Generator().manual_seed(0)
    network.prepare(generator, learning=False)
    acting = network(obs)
    torch.testing.assert_close(network(obs), acting)
    network.prepare(generator, learning=True)
    hidden = network.torso(obs)
    plain = torch.relu(network.torso[1](obs))
    alive = plain > 0
    assert (hidden[alive] == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    kept = alive & (hidden > 0)
    torch.testing.assert_close(hidden[kept], plain[kept] / 0.75)
    network.prepare(None, learning=False)
    torch.testing.assert_close(network(obs), acting)


def test_spectral_norm_divides_by_the_largest_singular_value():
    torch.manual_seed(0)
    layer = SpectralConv2d(8, 16, 3, padding=1)
    image = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        layer.weight.mul_(7.0)
    for _ in range(200):
        layer.prepare(None, learning=True)
    largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    expected = torch.nn.functional.conv2d(image, layer.weight / largest, layer.bias, padding=1)
    torch.testing.assert_close(layer(image), expected, rtol=1e-3, atol=1e-4)
    before = layer.left.clone()
    layer.prepare(torch.Generator(), learning=False)
    assert torch.equal(layer.left, before), "acting moves nothing"
    reference = torch.nn.utils.parametrizations.spectral_norm(
        torch.nn.Conv2d(8, 16, 3, padding=1), n_power_iterations=200
    )
    reference.parametrizations.weight.original.data.copy_(layer.weight)
    reference.bias.data.copy_(layer.bias)
    torch.testing.assert_close(reference(image), layer(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dueling", [False, True])
def test_distributional_values_are_expectations(dueling):
    obs = torch.rand(5, 3)
    options = {"dtype": np.float32, "hidden_sizes": (16,), "dueling": dueling}
    categorical = build(
        (3,),
        objective=ObjectiveConfig(distribution="categorical", num_atoms=11, v_min=0.0),
        **options,
    )
    logits = categorical.outputs(obs)
    assert logits.shape == (5, 3, 11)
    values = torch.linspace(0, 10, 11)
    torch.testing.assert_close(categorical(obs), (logits.softmax(2) * values).sum(2))
    quantile = build(
        (3,), objective=ObjectiveConfig(distribution="quantile", num_quantiles=7), **options
    )
    assert quantile.outputs(obs).shape == (5, 3, 7)
    torch.testing.assert_close(quantile(obs), quantile.outputs(obs).mean(2))


def test_implicit_quantiles_are_what_the_paper_computes():
    objective = ObjectiveConfig(distribution="implicit_quantile", num_policy_taus=4)
    network = build((3,), dtype=np.float32, hidden_sizes=(16,), objective=objective)
    obs, taus = torch.rand(5, 3), torch.rand(5, 6)
    features = network.features(obs)
    ours = network.quantiles(features, taus)
    assert ours.shape == (5, 3, 6)
    weight, bias = network.embedding[0].weight, network.embedding[0].bias
    for b in range(5):
        for k in range(6):
            cosines = torch.cos(torch.pi * torch.arange(64) * taus[b, k])
            phi = torch.relu(weight @ cosines + bias)
            one = network.head((features[b] * phi).unsqueeze(0))[0, :, 0]
            torch.testing.assert_close(ours[b, :, k], one, rtol=1e-4, atol=1e-5)
    middles = torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(5, -1)
    torch.testing.assert_close(network(obs), network.quantiles(features, middles).mean(2))


@pytest.mark.parametrize(
    "distribution", ["expected", "categorical", "quantile", "implicit_quantile"]
)
def test_low_precision_is_within_the_layers_alone(distribution):
    space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    objective = ObjectiveConfig(distribution=distribution, num_quantiles=11)
    exact, low = (
        NetworkConfig(hidden_sizes=(64,), precision=precision, dueling=True)
        for precision in ("float32", "bfloat16")
    )
    networks = []
    for config in (exact, low):
        torch.manual_seed(0)
        networks.append(
            make_network(
                config, objective, obs_space=space, num_actions=3, device=torch.device("cpu")
            )
        )
    assert multiply_adds(networks[0], (4, 84, 84), 2) == multiply_adds(networks[1], (4, 84, 84), 2)
    obs = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    values = [network(obs) for network in networks]
    assert values[1].dtype == torch.float32
    assert not torch.equal(*values), "it must have done something"
    torch.testing.assert_close(*values, rtol=0.05, atol=0.02)
    values[1].sum().backward()
    for parameter in networks[1].parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
    assert all(m.grad is not None for m in networks[1].torso.parameters())


class Pooled(torch.nn.Module):
    """Somebody's own: the largest of each channel, and a layer."""

    def __init__(self, channels, width):
        super().__init__()
        self.layer = torch.nn.Linear(channels, width)

    def forward(self, obs):
        return torch.relu(self.layer(obs.flatten(2).amax(dim=2)))


def pooled(config, obs_shape):
    return Pooled(obs_shape[0], config.hidden_sizes[0])


def flat(config, obs_shape):
    return torch.nn.Flatten(0)


def test_somebodys_own_torso():
    network = build(
        (4, 10, 10), torso="tests.networks.test_networks:pooled", hidden_sizes=(8,), dueling=True
    )
    obs = torch.randn(5, 4, 10, 10)
    assert network(obs).shape == (5, 3)
    scaled = network.scaling(obs)
    features = network.torso.layer(scaled.flatten(2).amax(dim=2)).relu()
    torch.testing.assert_close(network(obs), network.head(features).squeeze(2))


@pytest.mark.parametrize(
    ("torso", "said"),
    [
        (
            "resnet",
            "must be one of auto, mlp, minatar, mnih2013, nature, impala, or module:function",
        ),
        ("no_such_module:torso", "no module 'no_such_module'"),
        ("tests.networks.test_networks:nobody", "has no attribute 'nobody'"),
        ("tests.networks.test_networks:flat", r"gives \(600,\) for two observations"),
        ("tests.networks.test_networks:pytest", "is not a function"),
        ("tests.networks.test_networks:Pooled", "raises TypeError"),
    ],
)
def test_a_torso_that_is_none_is_refused(torso, said):
    with pytest.raises(ConfigError, match=said):
        build((3, 10, 10), torso=torso)


@pytest.mark.parametrize("torso", ["mnih2013", "nature", "impala"])
def test_the_order_in_memory_changes_no_value(torso):
    """Neither the values nor the gradients depend on the order of an image's channels in memory.

    The layers compute in double precision: in single precision a sum's rounding can decide which of
    two nearly equal values a pooling takes, and so change a gradient by any amount.
    """
    network = make_network(
        NetworkConfig(torso=torso, hidden_sizes=(16,)),
        ObjectiveConfig(),
        obs_space=gym.spaces.Box(0, 255, (4, 44, 40), np.uint8),
        num_actions=3,
        device=torch.device("cpu"),
    ).double()
    network.scaling.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    laid_out = []
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(
        lambda _, inputs: laid_out.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    rng = np.random.default_rng(0)
    obs = torch.from_numpy(rng.integers(0, 256, (5, 4, 44, 40)).astype(np.uint8))
    results = []
    for memory_format in (network.memory_format, torch.preserve_format):
        network.memory_format = memory_format
        values = network(obs)
        gradients = torch.autograd.grad(values.square().sum(), list(network.parameters()))
        results.append([values, *gradients])
    assert laid_out == [True, False]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
