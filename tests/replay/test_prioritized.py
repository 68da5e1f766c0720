"""Prioritised sampling compared with Schaul et al., on one rank and over ranks that differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hvd_dqn.common.structs import ReplayShare
from hvd_dqn.learner.flat_buffer import SumBuffer
from tests.replay.log import ENDS, PRIORITY_EXPONENT, World

FLOOR = 1e-6


def prioritized_world(**options) -> World:
    world = World(capacity=60, num_envs=2, n_step=2, prioritized=True, **options)
    world.walk(40, end_probability=0.05)
    return world


def set_all_priorities(world: World, priority_of) -> dict[float, float]:
    """Give every valid start a priority by its first frame; the stored values p = priority^α."""
    stored = {}
    slots = np.flatnonzero(world.sampler._tree.leaves > 0)
    frames = world.newest_frames(slots).tolist()
    world.sampler.update_priorities(slots, torch.tensor([priority_of(f) for f in frames]))
    for frame in frames:
        stored[frame] = (priority_of(frame) + FLOOR) ** PRIORITY_EXPONENT
    return stored


def test_frequencies_and_weights_match_the_paper():
    world = prioritized_world(batch_size=100)
    stored = set_all_priorities(world, lambda frame: frame % 7 / 3)
    assert set(stored) == set(world.valid())
    total = sum(stored.values())
    # w = (1 / (M · P))^β, over the batch's largest
    papers = {f: (1 / (len(stored) * p / total)) ** 0.6 for f, p in stored.items()}
    frames = []
    for _ in range(600):
        batch = world.replay.sample(0.6)
        drawn = batch.obs[:, -1].numpy().copy()
        frames.append(drawn)
        expected = np.array([papers[frame] for frame in drawn])
        assert batch.weight.numpy() == pytest.approx(expected / expected.max(), rel=1e-5)
    found, counts = np.unique(np.concatenate(frames), return_counts=True)
    chances = np.array([stored[frame] / total for frame in found])
    rare = sum(p for frame, p in stored.items() if frame not in set(found.tolist())) / total
    assert rare < 1e-3, "only starts that are hardly ever drawn may be missing"
    expected = chances / chances.sum() * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 2])
def test_priorities_of_any_type_and_stride(dtype, stride):
    world = prioritized_world()
    slots = np.flatnonzero(world.sampler._tree.leaves > 0)[:3]
    priority = torch.tensor([0.25, 9.0, 1.0, 9.0, 4.0, 9.0], dtype=dtype)[: 3 * stride : stride]
    world.sampler.update_priorities(slots, priority)
    expected = (priority.double().numpy() + FLOOR) ** PRIORITY_EXPONENT
    assert world.sampler._tree.leaves[slots] == pytest.approx(expected, rel=1e-12)


def test_new_transitions_enter_with_the_highest_priority():
    world = prioritized_world()
    set_all_priorities(world, lambda frame: 25.0)
    before = set(world.valid())
    world.step([None, None])
    new = set(world.valid()) - before
    assert new
    leaves = world.sampler._tree.leaves
    slots = np.flatnonzero(leaves > 0)
    for frame, leaf in zip(world.newest_frames(slots).tolist(), leaves[slots], strict=True):
        if frame in new:
            assert leaf == pytest.approx((25 + FLOOR) ** PRIORITY_EXPONENT)


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    num_envs=st.integers(1, 3),
    n_step=st.integers(1, 4),
    stack=st.integers(1, 4),
    rows=st.integers(7, 15),
)
def test_exactly_the_valid_starts_can_be_drawn_after_every_step(
    data, num_envs, n_step, stack, rows
):
    world = World(
        capacity=rows * num_envs, num_envs=num_envs, n_step=n_step, stack=stack, prioritized=True
    )
    for ends in data.draw(
        st.lists(st.lists(ENDS, min_size=num_envs, max_size=num_envs), min_size=1, max_size=40)
    ):
        world.step(ends)
        slots = np.flatnonzero(world.sampler._tree.leaves > 0)
        frames = world.newest_frames(slots)
        assert sorted(frames.tolist()) == sorted(world.valid())


def test_priorities_that_are_not_finite_change_nothing():
    world = prioritized_world()
    before = world.sampler._tree.leaves.copy()
    batch = world.replay.sample()
    priority = torch.ones(len(batch.slot))
    priority[3] = float("nan")
    world.replay.update_priorities(batch.slot, priority)
    assert np.array_equal(world.sampler._tree.leaves, before)


@pytest.mark.parametrize("world_size", [2, 3])
def test_weighted_gradients_over_ranks_equal_those_of_one_replay(world_size):
    """Σ over ranks of mass · E[mean(weight · g)] / floor, over the mass of all, is Σ over all
    transitions of P · w · g: the expectation of one replay that holds them all, but for a factor.
    """
    beta = 0.5
    worlds = [prioritized_world(seed=rank) for rank in range(world_size)]
    stored, expectations, shares = [], [], []
    for rank, world in enumerate(worlds):
        # ranks whose priorities differ widely
        mine = set_all_priorities(world, lambda f, rank=rank: (f % 11 + 1) * 10.0 ** (2 * rank))
        stored += [(frame + 1000 * rank, p) for frame, p in mine.items()]
        slots = np.flatnonzero(world.sampler._tree.leaves > 0)
        leaves = world.sampler._tree.leaves[slots]
        frames = world.newest_frames(slots)
        share = world.replay.sample(beta).share
        weights = share.weight_floor / leaves**beta
        # expectation of this rank's batch mean of weight · g, with g = sin(frame + 1000 · rank)
        g = np.sin(frames + 1000 * rank)
        expectations.append(float((leaves / leaves.sum() * weights * g).sum()))
        shares.append(share)
    pairs = list(zip(shares, expectations, strict=True))
    combined = sum(share.mass / share.weight_floor * e for share, e in pairs)
    combined /= sum(share.mass for share in shares)
    total = sum(p for _, p in stored)
    expected = sum(p / total * p**-beta * np.sin(frame) for frame, p in stored)
    assert combined == pytest.approx(expected, rel=1e-6)


def one_replay_of(shares: list[ReplayShare]) -> tuple[float, float]:
    """Mass and floor that the ranks agree on."""
    buffer = SumBuffer(torch.zeros(3), 3, rank=0, world_size=len(shares), shares=True)
    total = torch.zeros_like(buffer.tensor)
    for rank, share in enumerate(shares):
        mine = SumBuffer(torch.zeros(3), 3, rank=rank, world_size=len(shares), shares=True)
        mine.write_control(torch.zeros(4), torch.zeros(8), share, stop=False)
        total += mine.tensor
    buffer.tensor.copy_(total)
    agreement = buffer.agreement(buffer.numbers())
    assert buffer.unread_numbers()[1].item() == pytest.approx(
        agreement.mass / agreement.weight_floor
    )
    return agreement.mass, agreement.weight_floor


@pytest.mark.parametrize("batch_size", [1, 3, 32, 300])
def test_a_fraction_of_a_batch_is_spread_over_it_and_has_its_own_floor(batch_size):
    world = prioritized_world(batch_size=batch_size)
    set_all_priorities(world, lambda frame: frame * 3.7 % 11)
    lucky = np.zeros(8)
    for _ in range(300):
        batch = world.replay.sample(0.5)
        drawn = world.sampler._tree.leaves[batch.slot] ** 0.5
        members = list(range(batch_size))
        for power, floor in enumerate(batch.share.floors):
            step, first = 4**power, (0, 2, 10, 42, 170, 0, 0, 0)[power]
            if step <= batch_size:
                assert set(range(first, batch_size, step)) <= set(members)
                members = list(range(first, batch_size, step))
                assert len(members) == pytest.approx(batch_size / step, abs=1)
                assert floor == pytest.approx(min(drawn[i] for i in members))
            elif np.isfinite(floor):
                assert floor == pytest.approx(drawn[members[0]])
                lucky[power] += 1
    for power, times in enumerate(lucky):
        if (chance := batch_size / 4**power) < 1:
            assert times == pytest.approx(300 * chance, abs=30)


def test_equal_ranks_divide_by_the_largest_weight_of_all_batches():
    shares = [ReplayShare(50.0, (floor, *[0.5] * 7)) for floor in (0.4, 0.2, 0.3)]
    assert one_replay_of(shares) == pytest.approx((150.0, 0.2))


def test_one_rank_divides_by_the_largest_weight_of_its_batch():
    for share in (ReplayShare(3.3e7, (0.123, *[0.5] * 7)), ReplayShare(1e-7, (1e-7,) * 8)):
        mass, floor = one_replay_of([share])
        assert mass == np.float32(share.mass)
        assert floor == np.float32(share.weight_floor)


@pytest.mark.parametrize("beta", [0.4, 1.0])
@pytest.mark.parametrize(
    "scales",
    [(1, 1), (1, 0.3), (1, 0.1), (1, 1e-2), (1, 1e-4), (1, *[1e-3] * 7)],
    ids=str,
)
def test_a_step_over_ranks_is_as_large_as_that_of_one_replay(scales, beta):
    """The mean weight of a sample, over many batches, against batches of N·B that NumPy draws from
    all transitions. Divided by the smallest floor, it would be up to thousands of times smaller.
    Fractions are rounded, so the sizes differ by small factors.
    """
    size = 24
    worlds = [prioritized_world(seed=rank, batch_size=size) for rank in range(len(scales))]
    stored = []
    for world, scale in zip(worlds, scales, strict=True):
        mine = set_all_priorities(world, lambda f, s=scale: s**1.4 * (f * 7 % 13 + 3))
        stored += mine.values()
    rng = np.random.default_rng(0)
    p, count = np.array(stored), size * len(scales)
    ours, theirs = [], []
    for _ in range(400):
        places = (np.arange(count) + rng.random(count)) / count * p.sum()
        drawn = p[np.searchsorted(p.cumsum(), places)]
        theirs.append(((drawn.min() / drawn) ** beta).mean())
        batches = [world.replay.sample(beta) for world in worlds]
        mass, floor = one_replay_of([batch.share for batch in batches])
        ours.append(
            sum(
                floor / mass * b.share.mass / b.share.weight_floor * b.weight.mean().item()
                for b in batches
            )
        )
    assert 0.7 < np.mean(ours) / np.mean(theirs) < 3
    assert max(ours) < 2, "no step is larger than that of samples which weigh 1 each, twice"
