"""One rank's update compared with plain torch code."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from hvd_dqn.common.structs import ReplayShare
from hvd_dqn.config import NetworkConfig, OptimizerConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import NonFiniteError
from hvd_dqn.learner.flat_buffer import Digest, FlatParameters, SumBuffer
from hvd_dqn.learner.optimizers import make_optimizer
from hvd_dqn.methods.expected import ExpectedObjective
from hvd_dqn.networks.layers import Dropout, NoisyLinear, SpectralConv2d
from tests.distributed import workers


def test_the_flat_update_is_torchs_adam_with_clipping():
    learner = workers.make_learner(LocalCommunicator(), seed=3, target_period=7)
    online, target = copy.deepcopy(learner.online), copy.deepcopy(learner.online)
    for network in (online, target):
        for parameter in network.parameters():
            parameter.grad = None
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    objective = ExpectedObjective(workers.ObjectiveConfig())
    clipped = 0
    for number, batch in enumerate(workers.batches(30, 32), start=1):
        learner.start(batch)
        learner.finish()
        optimizer.zero_grad()
        objective(online, target, batch).loss.mean().backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(online.parameters(), 0.1)) > 0.1
        optimizer.step()
        if number % 7 == 0:
            target.load_state_dict(online.state_dict())
    assert clipped > 3, "clipping was active"
    for ours, theirs in zip(learner.online.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    last_copy = learner.target_parameters.values
    torch.testing.assert_close(
        last_copy, torch.cat([p.reshape(-1) for p in target.parameters()]), rtol=1e-4, atol=1e-6
    )


def test_a_delayed_gradient_is_that_of_the_update_before():
    late = {"average": "delayed_gradients"}
    learner = workers.make_learner(LocalCommunicator(), seed=3, target_period=7, distributed=late)
    online, target = copy.deepcopy(learner.online), copy.deepcopy(learner.online)
    for parameter in online.parameters():
        parameter.grad = None
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    objective = ExpectedObjective(workers.ObjectiveConfig())
    before = None
    for number, batch in enumerate(workers.batches(30, 32), start=1):
        learner.start(batch)
        learner.finish()
        loss = objective(online, target, batch).loss.mean()
        gradients = torch.autograd.grad(loss, list(online.parameters()))
        if before is not None:
            for parameter, gradient in zip(online.parameters(), before, strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(online.parameters(), 0.1)
            optimizer.step()
        before = [gradient.clone() for gradient in gradients]
        if number % 7 == 0:
            target.load_state_dict(online.state_dict())
        assert learner.updates == number
    for flat, network in (
        (learner.online_parameters.values, online),
        (learner.target_parameters.values, target),
    ):
        theirs = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
        torch.testing.assert_close(flat, theirs, rtol=1e-4, atol=1e-6)
    assert learner.statistics.agreed == 29, "the last sum is still in progress"


def test_the_target_network_changes_only_at_its_period():
    learner = workers.make_learner(LocalCommunicator(), seed=0, target_period=5)
    before = learner.target_parameters.values.clone()
    changes = []
    for batch in workers.batches(15, 8):
        learner.start(batch)
        learner.finish()
        changes.append(not torch.equal(before, learner.target_parameters.values))
        before = learner.target_parameters.values.clone()
    assert [i + 1 for i, changed in enumerate(changes) if changed] == [5, 10, 15]


def test_weights_scale_each_samples_share():
    (batch,) = workers.batches(1, 8)
    weighted, twice = (workers.make_learner(LocalCommunicator(), seed=0) for _ in range(2))
    weights = torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 0])
    weighted.start(batch._replace(weight=weights))
    only = workers.part(batch, 0, 1)
    twice.start(only._replace(weight=torch.tensor([0.25])))
    torch.testing.assert_close(weighted._buffer.payload, twice._buffer.payload)
    assert weighted._buffer.payload.abs().sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_stops_before_the_step(bad):
    learner = workers.make_learner(LocalCommunicator(), seed=0)
    good, broken = workers.batches(2, 8)
    learner.start(good)
    learner.finish()
    before = learner.online_parameters.values.clone()
    broken.reward[3] = bad
    broken.obs[3] = bad
    learner.start(broken)
    with pytest.raises(NonFiniteError, match="on rank 0 at update 1 "):
        learner.finish()
    assert torch.equal(learner.online_parameters.values, before)
    assert learner.updates == 1


def test_flat_parameters_are_the_modules_own():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    obs = torch.randn(5, 3)
    before = module(obs)
    flat = FlatParameters(module)
    assert flat.values.numel() == 3 * 4 + 4 + 4 * 2 + 2
    torch.testing.assert_close(module(obs), before)
    flat.values.zero_()
    assert module(obs).abs().sum() == 0


class RootIsElsewhere(LocalCommunicator):
    """Two ranks, this one not the root: broadcasts bring the root's values, 0.25 away."""

    world_size = 2
    is_root = False
    rank = 1

    def __init__(self):
        self.broadcasts = []
        self.overlaps = set()

    def start_sum(self, tensor, name, *, overlap=False):
        self.tensor = tensor
        self.overlaps.add(overlap)

    def finish_sum(self):
        self.tensor.mul_(2)  # the other rank has the same numbers, so digests agree

    def broadcast(self, tensor, name):
        self.broadcasts.append(name)
        tensor.add_(0.25)


def test_every_target_update_brings_the_roots_network_and_reports_the_drift():
    comm = RootIsElsewhere()
    learner = workers.make_learner(comm, seed=0, target_period=5)
    assert comm.broadcasts == ["online"], "all ranks start with the root's parameters"
    assert learner.statistics.drift == 0, "different initial weights are not drift"
    for number, batch in enumerate(workers.batches(15, 8), start=1):
        learner.start(batch)
        learner.finish()
        assert len(comm.broadcasts) == 1 + number // 5
    assert comm.broadcasts == ["online"] * 4
    assert torch.equal(learner.target_parameters.values, learner.online_parameters.values)
    assert learner.statistics.drift == pytest.approx(0.25)
    assert learner.statistics.resyncs == 0


def test_every_target_update_brings_the_roots_running_statistics():
    class RootHasSevens(RootIsElsewhere):
        def broadcast(self, tensor, name):
            if name.startswith("statistic"):
                tensor.fill_(7.0)

    learner = workers.make_learner(RootHasSevens(), seed=0, target_period=5, normalized=True)
    statistics = [*learner.online.buffers(), *learner.target.buffers()]
    statistics += [learner._rewards.mean_square, learner._rewards.samples]
    for number, batch in enumerate(workers.batches(5, 8), start=1):
        assert not any((values == 7).all() for values in statistics)
        learner.start(batch)
        learner.finish()
        if number == 4:
            learner.statistics.drift = 0.0
    assert len(statistics) == 2 * 4 + 2
    assert all((values == 7).all() for values in statistics)
    assert learner.statistics.drift > 1


@pytest.mark.parametrize(
    ("average", "overlap"), [("gradients", False), ("delayed_gradients", True)]
)
def test_a_sum_overlaps_if_it_is_applied_late(average, overlap):
    comm = RootIsElsewhere()
    learner = workers.make_learner(comm, seed=0, distributed={"average": average})
    for batch in workers.batches(3, 8):
        learner.start(batch)
        learner.finish()
    assert comm.overlaps == {overlap}


def test_a_drift_to_nan_is_infinite():
    comm = RootIsElsewhere()
    learner = workers.make_learner(comm, seed=0)
    learner.online_parameters.values[3] = float("nan")
    learner._take_roots_parameters()
    assert learner.statistics.drift == float("inf")


def changes():
    """Ways in which one rank's parameters can differ from another's."""

    def flip(bit):
        def change(values):
            values.view(torch.int32)[17] ^= torch.tensor(1 << bit if bit < 31 else -(2**31)).int()

        return change

    def swap(values):
        values[3], values[9] = values[9].clone(), values[3].clone()

    def negate(values):
        values.neg_()

    return [*(flip(bit) for bit in range(32)), swap, negate]


def test_the_norm_of_prioritised_sums_does_not_overflow():
    """Until divided, they are as large as a million priorities."""
    values = torch.zeros(5)
    buffer = SumBuffer(values, 5, rank=0, world_size=2, shares=True)
    buffer.payload.fill_(3e25)
    assert buffer.agreement(buffer.numbers()).norm == pytest.approx(3e25 * 5**0.5)


@pytest.mark.parametrize("change", changes())
def test_the_digest_notices(change):
    learner = workers.make_learner(LocalCommunicator(), seed=0)
    buffers = []
    for changed in (False, True):
        if changed:
            change(learner.online_parameters.values)
        values = learner.online_parameters.values
        buffer = SumBuffer(values, 7, rank=0, world_size=2, shares=False)
        buffer.write_control(torch.zeros(4), Digest(values)(), ReplayShare(), stop=False)
        buffers.append(buffer)
    same, other = buffers
    alike = same.tensor.clone()
    same.tensor.add_(alike)
    assert same.agreement(same.numbers()).parameters_equal
    other.tensor.add_(alike)
    assert not other.agreement(other.numbers()).parameters_equal


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (OptimizerConfig(adam_eps=1e-4), lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4)),
        (
            OptimizerConfig(name="adamw", weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        ),
        (OptimizerConfig(name="radam"), lambda p: torch.optim.RAdam(p, lr=0.01)),
    ],
)
def test_a_flat_optimizer_equals_one_with_a_parameter_per_layer(config, reference):
    torch.manual_seed(0)
    apart = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    flat = FlatParameters(copy.deepcopy(apart))
    gradients = torch.zeros_like(flat.values)
    ours, theirs = make_optimizer(config, flat.values, gradients), reference(apart.parameters())
    assert all(not value.any() for value in ours.state.values())
    for _ in range(30):
        for parameter in apart.parameters():
            parameter.grad = torch.randn_like(parameter)
        gradients.copy_(torch.cat([p.grad.reshape(-1) for p in apart.parameters()]))
        ours.step(0.01)
        theirs.step()
    expected = torch.cat([p.detach().reshape(-1) for p in apart.parameters()])
    torch.testing.assert_close(flat.values, expected, rtol=1e-5, atol=1e-6)


def centred_rmsprop(start, gradients, *, rate, decay, eps_in_root):
    """dqn_zoo's optimizer (optax's `scale_by_stddev`), in float64."""
    square = mean = np.zeros_like(start)
    for gradient in gradients:
        square = decay * square + (1 - decay) * gradient**2
        mean = decay * mean + (1 - decay) * gradient
        start = start - rate * gradient / np.sqrt(square - mean**2 + eps_in_root)
    return start


def rmsprop_steps(start, gradients, *, rate=0.01, **settings):
    """The same by the learner's."""
    values = torch.tensor(start, dtype=torch.float32)
    place = torch.zeros_like(values)
    optimizer = make_optimizer(OptimizerConfig(name="rmsprop", **settings), values, place)
    for gradient in gradients:
        place.copy_(torch.from_numpy(gradient))
        optimizer.step(rate)
    return values.double().numpy()


@pytest.mark.parametrize("eps", [1e-3, 0.1 / 32, 0.3])
def test_rmsprop_has_its_floor_within_the_root(eps):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=50), rng.normal(size=(200, 50)) * np.logspace(-5, 2, 50)
    ours = rmsprop_steps(start, gradients, rmsprop_decay=0.95, rmsprop_eps=eps)
    theirs = centred_rmsprop(start, gradients, rate=0.01, decay=0.95, eps_in_root=eps**2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1.0, 30.0])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4])
def test_near_constant_gradients_stay_numbers_in_rmsprop(size, spread):
    """Their variance is less than the rounding of the averages that it is the difference of."""
    rng = np.random.default_rng(0)
    gradients = size * (1 + spread * rng.normal(size=(2000, 20)))
    settings = {"rmsprop_decay": 0.95, "rmsprop_eps": 0.1 / 32}
    ours = rmsprop_steps(np.zeros(20), gradients, rate=1e-3, **settings)
    theirs = centred_rmsprop(
        np.zeros(20), gradients, rate=1e-3, decay=0.95, eps_in_root=settings["rmsprop_eps"] ** 2
    )
    assert np.isfinite(ours).all()
    # for large gradients the rounding is more than the floor, so the denominator is inexact
    np.testing.assert_allclose(ours, theirs, rtol=5e-2 if size <= 1 else 0.9, atol=1e-6)


def test_weights_without_gradients_stay_in_rmsprop_with_the_smallest_floor():
    ours = rmsprop_steps(np.ones(3), np.zeros((5, 3)), rmsprop_eps=1e-30)
    assert np.array_equal(ours, np.ones(3))


def test_a_soft_target_follows_at_its_step():
    learner = workers.make_learner(LocalCommunicator(), seed=0, target_period=2, target_step=0.25)
    expected = learner.target_parameters.values.clone()
    for number, batch in enumerate(workers.batches(12, 8), start=1):
        learner.start(batch)
        learner.finish()
        if number % 2 == 0:
            expected += 0.25 * (learner.online_parameters.values - expected)
        torch.testing.assert_close(learner.target_parameters.values, expected)
    assert not torch.allclose(expected, learner.online_parameters.values)


def test_soft_targets_are_broadcast_as_often_as_a_copy_would_be():
    comm = RootIsElsewhere()
    learner = workers.make_learner(comm, seed=0, target_period=2, target_step=0.25)
    for batch in workers.batches(17, 8):
        learner.start(batch)
        learner.finish()
    assert comm.broadcasts == ["online", *["online", "target"] * 2]


def test_local_steps_stop_at_a_bad_number_and_report_it_at_the_average():
    learner = workers.make_learner(
        LocalCommunicator(), seed=0, distributed={"average": "parameters"}
    )
    for number, batch in enumerate(workers.batches(10, 8)):
        if number == 3:
            before = learner.online_parameters.values.clone()
            batch.reward[0] = float("nan")
        learner.start(batch)
        if number < 9:
            learner.finish()
    with pytest.raises(NonFiniteError, match="on rank 0 at update 10 "):
        learner.finish()
    assert torch.equal(learner.online_parameters.values, before)


def test_priorities_are_the_samples_own_errors():
    learner = workers.make_learner(LocalCommunicator(), seed=0)
    (batch,) = workers.batches(1, 8)
    priority = learner.start(batch)
    expected = learner.objective(learner.online, learner.target, batch).abs_td_error
    torch.testing.assert_close(priority, expected)


CHANGING = NetworkConfig(
    torso="impala", spectral_norm=True, noisy=True, dropout=0.2, hidden_sizes=(16,)
)


def changing_learner(**options):
    """A learner of small images whose networks have noise, dropout and spectral norms."""
    return workers.make_learner(
        LocalCommunicator(), seed=0, network=CHANGING, obs_shape=(2, 16, 16), **options
    )


def image_batch(size=8):
    (batch,) = workers.batches(1, size)
    generator = torch.Generator().manual_seed(3)
    obs, next_obs = torch.randn(2, size, 2, 16, 16, generator=generator)
    return batch._replace(obs=obs, next_obs=next_obs)


def test_every_update_draws_noise_for_both_networks_and_follows_the_kernels():
    learner = changing_learner(target_period=100)
    seen = []
    for _ in range(3):
        learner.start(image_batch())
        learner.finish()
        seen.append(
            [
                [m.noise_out.clone() for m in network.modules() if isinstance(m, NoisyLinear)]
                + [m.left.clone() for m in network.modules() if isinstance(m, SpectralConv2d)]
                for network in (learner.online, learner.target)
            ]
        )
    for before, after in pairwise(seen):
        for mine, then in zip(before, after, strict=True):
            assert len(mine) == 2 + 12, "two noisy layers, twelve convolutions of blocks"
            assert all(not torch.equal(a, b) for a, b in zip(mine, then, strict=True))
    online, target = seen[-1]
    assert not torch.equal(online[0], target[0]), "each network has its own noise"
    dropouts = [m for m in learner.online.modules() if isinstance(m, Dropout)]
    assert dropouts
    assert all(m._generator is not None for m in dropouts), "dropout is active in updates"


def test_a_copied_target_computes_what_the_online_network_does():
    learner = changing_learner(target_period=2)
    for number in range(5):
        if number % 2 == 0:
            for network in (learner.online, learner.target):
                network.prepare(None, learning=False)
            obs = image_batch().obs
            assert torch.equal(learner.online(obs), learner.target(obs)), number
        learner.start(image_batch())
        learner.finish()


def test_losses_are_reported_without_weights_and_norms_by_update():
    (batch,) = workers.batches(1, 8)
    learner = workers.make_learner(LocalCommunicator(), seed=0)
    expected = learner.objective(learner.online, learner.target, batch).loss.mean().item()
    learner.start(batch._replace(weight=torch.full((8,), 0.01)))
    learner.finish()
    assert learner.statistics.loss == pytest.approx(expected)
    local = workers.make_learner(LocalCommunicator(), seed=0, distributed={"average": "parameters"})
    for each in workers.batches(14, 8):
        local.start(each)
        local.finish()
    assert (local.statistics.updates, local.statistics.agreed) == (14, 10)
    assert local.statistics.grad_norm > 0


def test_a_late_sum_of_two_ranks_is_the_same_mean_on_one():
    late = {"average": "delayed_gradients"}
    two = workers.make_learner(RootIsElsewhere(), seed=0, distributed=late)
    batches = workers.batches(4, 8)
    for batch in batches[:3]:
        two.start(batch)
        two.finish()
    state = two.state_dict()
    one = workers.make_learner(LocalCommunicator(), seed=0, distributed=late)
    one.load_state_dict(state)
    torch.testing.assert_close(one._sums.payload, two._sums.payload / 2)
    before = one.online_parameters.values.clone()
    for learner in (one, two):
        learner.statistics.loss = learner.statistics.grad_norm = 0.0
        learner.start(batches[3])
        learner.finish()
    assert not torch.equal(one.online_parameters.values, before)
    torch.testing.assert_close(one.online_parameters.values, two.online_parameters.values)
    assert one.statistics.loss == pytest.approx(two.statistics.loss)
    assert one.statistics.grad_norm == pytest.approx(two.statistics.grad_norm)
    assert one.statistics.resyncs == 0


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_prioritised_sum_is_divided_the_same_on_another_number_of_ranks(ranks):
    saved = SumBuffer(torch.zeros(3), 3, rank=0, world_size=2, shares=True)
    saved.payload.copy_(torch.tensor([30.0, -60.0, 90.0]))
    saved._shares.copy_(torch.tensor([50.0, 70.0, *[0.5, 0.25] * 8]))
    saved._control[1:4] = torch.tensor([2.0, 4.0, 6.0])
    buffer = SumBuffer(torch.zeros(3), 3, rank=0, world_size=ranks, shares=True)
    buffer.restore(saved.tensor, 2)
    agreement = buffer.agreement(buffer.numbers())
    means = buffer.payload * agreement.weight_floor / agreement.mass
    torch.testing.assert_close(means, torch.tensor([30.0, -60.0, 90.0]) * 0.25 / 120)
    assert (agreement.loss, agreement.abs_td_error, agreement.value) == pytest.approx((1, 2, 3))
    assert (agreement.stops, agreement.nonfinite_ranks, agreement.parameters_equal) == (0, 0, True)


def test_a_prioritised_sum_of_version_0_1_0_has_one_floor_for_each_rank():
    buffer = SumBuffer(torch.zeros(3), 3, rank=0, world_size=2, shares=True)
    old = torch.zeros(3 + 14 + 4)
    old[-4:] = torch.tensor([60.0, 60.0, 0.5, 0.25])
    buffer.restore(old, 2)
    agreement = buffer.agreement(buffer.numbers())
    assert (agreement.mass, agreement.weight_floor) == (120.0, 0.25)
