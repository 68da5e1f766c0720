"""Prioritised sampling compared with Schaul et al., on one rank and over ranks that differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

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
    """Σ over ranks of mass · E[mean(weight · g)] / floor, times the least floor over the mass of
    all, is Σ over all transitions of P · w · g over the largest w: the expectation of one replay
    that holds them all, for batches in which the transition of the largest weight is.
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
        # a batch of this rank in which its least priority is
        while (
            batch := world.replay.sample(beta)
        ).share.weight_floor > leaves.min() ** beta * 1.001:
            pass
        share = batch.share
        weights = share.weight_floor / leaves**beta
        # expectation of this rank's batch mean of weight · g, with g = sin(frame + 1000 · rank)
        g = np.sin(frames + 1000 * rank)
        expectations.append(float((leaves / leaves.sum() * weights * g).sum()))
        shares.append(share)
    mass = sum(share.mass for share in shares)
    floor = min(share.weight_floor for share in shares)
    combined = (
        floor
        / mass
        * sum(
            share.mass / share.weight_floor * e
            for share, e in zip(shares, expectations, strict=True)
        )
    )
    total = sum(p for _, p in stored)
    weights = {f: (total / (len(stored) * p)) ** beta for f, p in stored}
    highest = max(weights.values())
    expected = sum(p / total * weights[f] / highest * np.sin(f) for f, p in stored)
    assert combined == pytest.approx(expected, rel=1e-6)
