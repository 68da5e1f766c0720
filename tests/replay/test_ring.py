"""Samples of the replay, compared with a log of episodes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hvd_dqn.common.structs import EnvStep
from hvd_dqn.replay import ReplayBuffer, Ring, UniformSampler
from tests.replay.log import ENDS, GAMMA, WAITS, World


def expect_transitions(world: World, batch) -> set[float]:
    """Check that every sample is a transition of the log. Return the starts seen."""
    expected = world.valid()
    seen = set()
    for i in range(len(batch.action)):
        start = batch.obs[i, -1].item()
        assert start in expected, "an invalid start"
        transition = expected[start]
        assert batch.obs[i].tolist() == transition.obs
        assert batch.action[i].item() == transition.action
        assert batch.reward[i].item() == pytest.approx(transition.reward, rel=1e-5, abs=1e-6)
        assert batch.discount[i].item() == pytest.approx(transition.discount, rel=1e-6)
        if transition.discount:  # otherwise next_obs is arbitrary
            assert batch.next_obs[i].tolist() == transition.next_obs
        assert batch.next_obs[i].isfinite().all()
        seen.add(start)
    return seen


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    num_envs=st.integers(1, 3),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    rows=st.integers(7, 20),
    prioritized=st.booleans(),
    together=st.booleans(),
)
def test_samples_are_the_logs_transitions_and_all_of_them(
    data, num_envs, n_step, stack, rows, prioritized, together
):
    # what skips actions steps all its environments together
    kinds = ENDS if together else st.one_of(ENDS.filter(lambda e: e != "skipped"), st.just(WAITS))
    world = World(
        capacity=rows * num_envs,
        num_envs=num_envs,
        n_step=n_step,
        stack=stack,
        seed=data.draw(st.integers(0, 99)),
        prioritized=prioritized,
    )
    for ends in data.draw(
        st.lists(st.lists(kinds, min_size=num_envs, max_size=num_envs), min_size=1, max_size=60)
    ):
        world.step(ends)
        if data.draw(st.integers(0, 9)) == 0:
            world.cut(data.draw(st.integers(0, num_envs - 1)))
    expected = set(world.valid())
    if not expected:
        with pytest.raises(ValueError, match="no complete transition"):
            world.replay.sample()
        return
    # 1,024 draws over at most 60 starts: one of them missing has a chance below 10⁻⁵
    seen = set().union(*(expect_transitions(world, world.replay.sample()) for _ in range(4)))
    assert seen == expected


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("n_step", "stack"), [(1, 1), (3, 1), (3, 4)])
@pytest.mark.parametrize("steps", [25, 200])
def test_every_valid_start_is_equally_likely(n_step, stack, steps, prioritized):
    world = World(
        capacity=120,
        num_envs=4,
        n_step=n_step,
        stack=stack,
        seed=3,
        batch_size=100,
        prioritized=prioritized,
    )
    # environments end at different rates, so that their shares of the ring differ
    world.walk(steps, end_probability=0.02)
    expected = world.valid()
    starts = np.concatenate([world.replay.sample().obs[:, -1].numpy().copy() for _ in range(400)])
    found, counts = np.unique(starts, return_counts=True)
    assert set(found.tolist()) == set(expected)
    # draws from equal parts of a sum vary less than independent ones: the test is one-sided
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_truncated_episode_bootstraps_from_its_true_last_observation():
    world = World(capacity=30, num_envs=1)
    world.step([None])
    world.step(["truncated"])
    world.step([None])
    batch = world.replay.sample()
    last = (batch.obs == 2.0).flatten()  # o₀ = 1, o₁ = 2, final o₂ = 3, reset 4
    assert last.any()
    assert set(batch.next_obs[last].flatten().tolist()) == {3.0}
    torch.testing.assert_close(batch.discount[last], torch.full((int(last.sum()),), GAMMA))
    assert 3.0 not in batch.obs, "the step into the reset is not a transition"


def test_a_lost_life_stops_the_bootstrap_but_not_the_stack():
    world = World(capacity=30, num_envs=1, n_step=2, stack=3)
    for end in [None, "life lost", None, None]:
        world.step([end])
    batch = world.replay.sample()
    by_start = {
        batch.obs[i, -1].item(): (batch.obs[i].tolist(), batch.discount[i].item())
        for i in range(256)
    }
    assert by_start[1.0] == ([0.0, 0.0, 1.0], 0.0)
    assert by_start[2.0] == ([0.0, 1.0, 2.0], 0.0)
    assert by_start[3.0] == ([1.0, 2.0, 3.0], pytest.approx(GAMMA**2))


def test_gamma_is_applied_once_per_n_step_window():
    world = World(capacity=30, num_envs=1, n_step=3)
    for _ in range(5):
        world.step([None])
    batch = world.replay.sample()
    torch.testing.assert_close(batch.discount, torch.full_like(batch.discount, GAMMA**3))


def test_the_newest_transition_can_be_sampled_at_once():
    world = World(capacity=30, num_envs=2)
    with pytest.raises(ValueError, match="no complete transition"):
        world.replay.sample()
    world.step([None, None])
    assert set(world.replay.sample().obs.flatten().tolist()) == {1.0, 2.0}


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_restored_replay_continues_exactly(monkeypatch, prioritized):
    settings_ = {"capacity": 60, "num_envs": 3, "n_step": 3, "stack": 2}
    world = World(**settings_, prioritized=prioritized)
    world.walk(45, end_probability=0.05)
    batch = world.replay.sample(0.5)
    world.replay.update_priorities(batch.slot, batch.reward.abs())
    other = World(**settings_, prioritized=prioritized, seed=77)
    other.replay.load_state_dict(copy.deepcopy(world.replay.state_dict()))
    ring = world.replay.ring
    for column, (oldest, moved) in enumerate(zip(ring.oldest, ring.moved, strict=True)):
        frames = np.concatenate(list(ring.frames(column, oldest, moved + 1)))
        with monkeypatch.context() as as_on_a_gpu:
            as_on_a_gpu.setattr(ring._frames, "max_contiguous_rows", 2)
            pieces = list(ring.frames(column, oldest, moved + 1))
        assert max(len(piece) for piece in pieces) == 2
        assert np.array_equal(np.concatenate(pieces), frames)
        other.replay.ring.put_frames(column, oldest, frames)
    other.episodes, other.counter = copy.deepcopy(world.episodes), world.counter
    other.rng = copy.deepcopy(world.rng)
    for seed in range(3):
        ours, theirs = world.replay.sample(0.5), other.replay.sample(0.5)
        for mine, its in zip(ours, theirs, strict=True):
            if isinstance(mine, torch.Tensor):
                assert torch.equal(mine, its)
        assert np.array_equal(ours.slot, theirs.slot)
        assert ours.share == theirs.share
        for each in (world, other):
            each.walk(7, end_probability=0.05, seed=seed)


def image_replay(capacity: int, stack: int, **options) -> ReplayBuffer:
    ring = Ring(
        capacity=capacity,
        num_envs=2,
        frame_shape=(1, 3, 4),
        obs_dtype=np.dtype(np.uint8),
        frame_stack=stack,
        n_step=1,
        device=torch.device("cpu"),
    )
    rng = np.random.default_rng(0)
    return ReplayBuffer(
        ring,
        UniformSampler(ring, rng),
        gamma=0.99,
        n_step=1,
        batch_size=8,
        rng=rng,
        device=torch.device("cpu"),
    )


def test_images_are_stored_once_as_bytes():
    replay = image_replay(1000, stack=2)
    frames = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)
    replay.start(np.concatenate((np.zeros_like(frames), frames), axis=1))
    flags = np.zeros(2, dtype=bool)
    following = np.concatenate((frames, frames + 24), axis=1)
    reward = np.ones(2, np.float32)
    step = EnvStep(
        following, following, reward, terminated=flags, truncated=flags, ended=flags, episodes=[]
    )
    replay.add(np.array([1, 2]), step)
    batch = replay.sample()
    assert batch.obs.dtype == torch.uint8
    assert batch.obs.shape == (8, 2, 3, 4)
    assert not batch.obs[:, 0].any(), "zeros before the first frame"
    assert torch.equal(batch.next_obs[:, 0], batch.obs[:, 1])
    assert torch.equal(batch.next_obs[:, 1], batch.obs[:, 1] + 24)


def test_a_million_atari_transitions_fit_in_seven_gigabytes():
    settings_ = {"num_envs": 32, "frame_shape": (1, 84, 84), "obs_dtype": np.dtype(np.uint8)}
    needed = Ring.bytes_needed(capacity=1_000_000, frame_stack=4, n_step=3, **settings_)
    assert needed < 7.08e9
    small = Ring(capacity=3200, frame_stack=4, n_step=3, device=torch.device("cpu"), **settings_)
    frames = small._frames._frames  # the state has all the rest
    held = frames.nbytes + sum(v.nbytes for v in small.state_dict().values())
    stated = Ring.bytes_needed(capacity=3200, frame_stack=4, n_step=3, **settings_)
    assert held == stated + 32 * 8, "everything but the cursors is counted"


@pytest.mark.parametrize(
    ("batch_size", "prioritized", "draws"),
    [(16, False, 1), (16, True, 5), (40_000, False, 5)],  # the last: more than a core's cache holds
)
def test_independent_small_batches_are_sampled_together(batch_size, prioritized, draws):
    world = World(
        capacity=400, num_envs=2, n_step=2, batch_size=batch_size, prioritized=prioritized
    )
    world.walk(300, end_probability=0.05)
    counts = []
    draw = world.sampler.draw
    world.sampler.draw = lambda count, exponent: counts.append(count) or draw(count, exponent)
    expected = 5 * batch_size // draws
    for number, batch in enumerate(world.replay.batches(5, 0.5)):
        assert len(batch.action) == batch_size
        if batch_size < 100:
            expect_transitions(world, batch)
        assert len(counts) == min(number + 1, draws)
    assert counts == [expected] * draws
