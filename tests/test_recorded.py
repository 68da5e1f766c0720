"""Recorded passes and steps against those that the host launches one by one; without a GPU, a
function that is called again stands for the CUDA graph. On one: tests/test_gpu.py.
"""

import pytest
import torch

from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import NonFiniteError
from tests.distributed import workers

DISTRIBUTED = {
    "gradients": {},
    "delayed gradients": {"average": "delayed_gradients"},
    "parameters": {"average": "parameters", "average_period_updates": 5},
}


def learners(**options):
    """One by one, and recorded."""
    plain = workers.make_learner(LocalCommunicator(), seed=0, **options)
    optimizer = options.pop("optimizer", {}) | {"cuda_graph": True}
    with workers.recording_without_a_gpu() as recorded:
        learner = workers.make_learner(LocalCommunicator(), seed=0, optimizer=optimizer, **options)
    return plain, learner, recorded


@pytest.mark.parametrize("distributed", DISTRIBUTED.values(), ids=DISTRIBUTED)
@pytest.mark.parametrize(
    "optimizer",
    [
        {},
        {"max_grad_norm": None, "learning_rate": 1e-2},
        {"name": "adamw", "weight_decay": 0.1, "warmup_updates": 10},
        {"name": "radam", "final_learning_rate_fraction": 0.0},
        {"name": "rmsprop"},
    ],
    ids=str,
)
def test_recorded_updates_are_those_one_by_one(optimizer, distributed):
    plain, recorded, graphs = learners(optimizer=optimizer, distributed=distributed)
    before = recorded.online_parameters.values.clone()
    recorded.warm_up(workers.batches(1, 16)[0])
    assert torch.equal(recorded.online_parameters.values, before)
    for batch in workers.batches(60, 16):
        for learner in (plain, recorded):
            learner.start(batch)
            learner.finish()
        assert recorded.updates == plain.updates
        assert recorded.learning_rate == plain.learning_rate
    recorded.settle()
    assert len(graphs) == 2, "the passes, and the step"
    for name in ("online_parameters", "target_parameters"):
        one, other = (getattr(learner, name).values for learner in (plain, recorded))
        torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-6)
    assert (recorded.online_parameters.values - before).abs().max() > 1e-3
    for learner in (plain, recorded):
        learner.statistics.on_its_way_seconds = 0.0
    assert vars(recorded.statistics) == pytest.approx(vars(plain.statistics), rel=1e-3, abs=1e-2)


def test_a_replays_share_divides_a_recorded_sum_too():
    plain, recorded, _ = learners(prioritized=True)
    share = workers.share_of(1)
    for batch in workers.batches(30, 16):
        for learner in (plain, recorded):
            learner.start(batch._replace(share=share))
            learner.finish()
    one, other = (learner.online_parameters.values for learner in (plain, recorded))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("told_by", ["the next update", "settling", "saving"])
def test_a_bad_number_takes_no_recorded_step(bad, told_by):
    _, learner, _ = learners()
    good, broken, next_one = workers.batches(3, 8)
    learner.start(good)
    learner.finish()
    before = learner.online_parameters.values.clone()
    broken.reward[3] = bad
    broken.obs[3] = bad
    learner.start(broken)
    learner.finish()
    assert torch.equal(learner.online_parameters.values, before)
    if told_by == "the next update":
        learner.start(next_one)
    tell = {
        "the next update": learner.finish,
        "settling": learner.settle,
        "saving": learner.state_dict,
    }[told_by]
    with pytest.raises(NonFiniteError, match="on rank 0 at update 1 "):
        tell()
    assert torch.equal(learner.online_parameters.values, before)
    assert learner.updates == 1


def test_a_wish_to_stop_is_known_when_an_update_is_settled():
    _, learner, _ = learners()
    learner._wants_stop = lambda: True
    (batch,) = workers.batches(1, 8)
    learner.start(batch)
    learner.finish()
    assert not learner.stop_agreed
    learner.settle()
    assert learner.stop_agreed


@pytest.mark.parametrize("distributed", DISTRIBUTED.values(), ids=DISTRIBUTED)
def test_a_state_is_of_what_was_recorded_before_it(distributed):
    """Saved between two updates and loaded by a learner that has recorded its own: the same."""
    _, one, _ = learners(distributed=distributed)
    _, other, _ = learners(distributed=distributed)
    first, later = workers.batches(40, 16)[:20], workers.batches(40, 16)[20:]
    for batch in first:
        one.start(batch)
        one.finish()
    state = one.state_dict()
    assert one.statistics.updates == 20
    other.warm_up(first[0])
    other.load_state_dict(state)
    for batch in later:
        for learner in (one, other):
            learner.start(batch)
            learner.finish()
    assert torch.equal(one.online_parameters.values, other.online_parameters.values)
    assert torch.equal(one.target_parameters.values, other.target_parameters.values)
