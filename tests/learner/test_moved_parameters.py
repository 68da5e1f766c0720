"""Parameters that are moved or replaced between updates, as callbacks and libraries do."""

from __future__ import annotations

import pytest
import torch

from hvd_dqn.config import NetworkConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from tests.distributed import workers

DISTRIBUTED = {
    "gradients": {},
    "delayed gradients": {"average": "delayed_gradients"},
    "parameters": {"average": "parameters", "average_period_updates": 5},
}
IMAGES = {
    "network": NetworkConfig(torso="impala", spectral_norm=True, noisy=True, hidden_sizes=(16,)),
    "obs_shape": (2, 12, 12),
}


def new_data(network):
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.detach().clone()


def new_parameters(network):
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, torch.nn.Parameter(parameter.detach().clone()))


def loaded(network):
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)


MOVES = {
    "data": new_data,
    "parameters": new_parameters,
    "load_state_dict": loaded,
    "to another type and back": lambda network: network.to(torch.float64).to(torch.float32),
    "to another layout": lambda network: network.to(memory_format=torch.channels_last),
    "no gradients": lambda network: network.zero_grad(set_to_none=True),
}


def learner_of(recorded=False, compiled=False, **options):
    optimizer = {"cuda_graph": recorded, "compile": compiled}
    with workers.recording_without_a_gpu():
        return workers.make_learner(LocalCommunicator(), seed=0, optimizer=optimizer, **options)


def batches_for(options, count):
    batches = workers.batches(count, 8)
    if "obs_shape" not in options:
        return batches
    generator = torch.Generator().manual_seed(3)
    shape = (2, 8, *options["obs_shape"])
    pairs = [torch.randn(shape, generator=generator) for _ in batches]
    return [
        batch._replace(obs=obs, next_obs=next_obs)
        for batch, (obs, next_obs) in zip(batches, pairs, strict=True)
    ]


def update(learner, batches):
    for batch in batches:
        learner.start(batch)
        learner.finish()
    learner.synchronize()


def assert_moving_changes_nothing(move, **options):
    there, moved = (learner_of(**options) for _ in range(2))
    given = batches_for(options, 12)
    for learner in (there, moved):
        update(learner, given[:6])
    before = moved.online_parameters.values.clone()
    for network in (moved.online, moved.target):
        move(network)
    for learner in (there, moved):
        update(learner, given[6:])
    assert not torch.equal(moved.online_parameters.values, before)
    for network in ("online", "target"):
        ours, theirs = (getattr(learner, network).state_dict() for learner in (moved, there))
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), (network, name)
        flat = getattr(moved, f"{network}_parameters").values
        parameters = getattr(moved, network).parameters()
        assert torch.equal(flat, torch.cat([p.detach().reshape(-1) for p in parameters]))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("distributed", DISTRIBUTED.values(), ids=DISTRIBUTED)
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_learner_goes_on_with_parameters_that_were_moved(move, distributed, recorded):
    assert_moving_changes_nothing(move, distributed=distributed, recorded=recorded)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("move", [new_data, loaded])
def test_noise_and_spectral_norms_are_the_networks_own_too(move, recorded):
    assert_moving_changes_nothing(move, recorded=recorded, **IMAGES)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_compiled_program_goes_on_with_them(monkeypatch, move):
    monkeypatch.setattr(torch._inductor, "compile", lambda operations, memory: operations)
    assert_moving_changes_nothing(move, compiled=True)


@pytest.mark.parametrize("average", DISTRIBUTED.values(), ids=DISTRIBUTED)
def test_new_values_are_learned_from_and_saved(average):
    learner = learner_of(distributed=average)
    update(learner, workers.batches(5, 8))
    for parameter in learner.online.parameters():
        parameter.data = torch.full_like(parameter, 0.25)
    state = learner.state_dict()
    steps = state.shared if "online" in state.shared else state.per_rank["steps"]
    assert (steps["online"] == 0.25).all()
    with learner.shared_parameters():
        assert all((parameter == 0.25).all() for parameter in learner.online.parameters())


def test_a_state_is_loaded_into_parameters_that_were_moved():
    learner, other = learner_of(), learner_of()
    update(other, workers.batches(5, 8))
    new_data(learner.online)
    learner.load_state_dict(other.state_dict())
    update(learner, workers.batches(6, 8)[5:])
    update(other, workers.batches(6, 8)[5:])
    assert torch.equal(learner.online_parameters.values, other.online_parameters.values)


@pytest.mark.parametrize(
    ("move", "told"),
    [
        (lambda network: network.double(), r"torso\.\S+ .* is float64 \[32, 6\] on cpu, and was f"),
        (lambda network: network.to("meta"), "float32 .* on meta, and was float32 .* on cpu"),
        (
            lambda network: setattr(
                network.head.layers[-1], "bias", torch.nn.Parameter(torch.zeros(4))
            ),
            r"head\.layers\.0\.bias .* \[4\] on cpu, and was .* \[3\]",
        ),
        (
            lambda network: network.head.layers.__setitem__(0, torch.nn.Linear(32, 3)),
            "a layer of the network was replaced",
        ),
    ],
)
@pytest.mark.parametrize("recorded", [False, True])
def test_what_cannot_go_on_is_reported(move, told, recorded):
    for name in ("online", "target"):
        learner = learner_of(recorded=recorded)
        first, second = workers.batches(2, 8)
        update(learner, [first])
        move(getattr(learner, name))
        with pytest.raises(RuntimeError, match=told):
            learner.start(second)
