"""Replays redistributed over other ranks, compared with the log of episodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hvd_dqn.common.errors import UserError
from hvd_dqn.replay.redistribution import RowData, SavedEnvironment, redistribute
from tests.replay.log import GAMMA, World


def old_environment(world: World, column: int) -> SavedEnvironment:
    ring = world.ring
    oldest, moved = int(ring.oldest[column]), int(ring.moved[column])
    numbers = np.arange(oldest, moved + 1) % ring.rows
    state = {name: values.numpy() for name, values in ring.state_dict().items()}
    leaves = world.sampler.state_dict()["priorities"].numpy().reshape(state["kinds"].shape)
    frames = np.concatenate(list(ring.frames(column, oldest, moved + 1)))
    values = (state["kinds"], state["actions"], state["rewards"], leaves)
    return SavedEnvironment(
        RowData(*(v[column, numbers] for v in values)), lambda a, b: frames[a:b]
    )


def redistribute_over(old: list[World], ranks: int, num_envs: int, rows: int) -> list[World]:
    """New worlds, filled from the old ones; their own logs are empty."""
    environments = [old_environment(w, column) for w in old for column in range(w.num_envs)]
    news = []
    for rank in range(ranks):
        new = World(
            capacity=rows * num_envs,
            num_envs=num_envs,
            n_step=old[0].n_step,
            stack=old[0].stack,
            prioritized=True,
            first_frame=100_000,
        )
        slots, priorities = redistribute(
            environments,
            new.ring,
            first=rank * num_envs,
            count=ranks * num_envs,
            frame_stack=new.stack,
        )
        new.replay.start(new.stacks())
        new.replay.load_priorities(slots, priorities, 7.0)
        news.append(new)
    return news


def starts(world: World) -> dict[float, float]:
    """The priority of every valid start, by its newest frame."""
    slots = np.arange(world.ring.num_slots)
    slots = slots[world.ring.windows(slots)[0]]
    newest = world.newest_frames(slots).tolist()
    leaves = world.sampler.state_dict()["priorities"].numpy()
    assert (leaves > 0).sum() == len(slots), "exactly the valid starts have a priority"
    return dict(zip(newest, leaves[slots].tolist(), strict=True))


def expect_log(new: World, old: list[World]) -> None:
    """Assert that every sample is a transition of the log, of n steps or fewer."""
    batch = new.replay.sample()
    episodes = {
        frame: (episode, place)
        for world in old
        for log in world.episodes
        for episode in log
        for place, frame in enumerate(episode.frames)
    }
    for i in range(len(batch.action)):
        episode, start = episodes[batch.obs[i, -1].item()]
        fitting = [
            episode.transition(start, n, new.stack)
            for n in range(1, 1 + min(new.n_step, len(episode.actions) - start))
        ]
        assert any(
            t.obs == batch.obs[i].tolist()
            and t.action == batch.action[i].item()
            and t.reward == pytest.approx(batch.reward[i].item(), rel=1e-5, abs=1e-6)
            and t.discount == pytest.approx(batch.discount[i].item(), rel=1e-6)
            and (t.next_obs == batch.next_obs[i].tolist() or not t.discount)
            for t in fitting
        )


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    num_envs=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    n_step=st.integers(1, 4),
    stack=st.integers(1, 4),
    steps=st.integers(60, 150),
    end_probability=st.sampled_from([0.0, 0.02, 0.2]),
    seed=st.integers(0, 99),
)
def test_no_transition_is_lost_if_all_fit(
    ranks, num_envs, n_step, stack, steps, end_probability, seed
):
    old = [
        World(
            capacity=80 * num_envs[0],
            num_envs=num_envs[0],
            n_step=n_step,
            stack=stack,
            prioritized=True,
            seed=seed + rank,
            first_frame=1 + 10_000 * rank,
        )
        for rank in range(ranks[0])
    ]
    assume(ranks[0] * num_envs[0] * min(steps, 79) >= ranks[1] * num_envs[1] * (2 * stack + 2))
    for rank, world in enumerate(old):
        world.walk(steps + rank, end_probability=end_probability, seed=seed)
        batch = world.replay.sample()
        world.replay.update_priorities(batch.slot, batch.reward.abs())
    before = {frame: leaf for world in old for frame, leaf in starts(world).items()}
    news = redistribute_over(
        old, ranks[1], num_envs[1], rows=100 + 80 * sum(w.num_envs for w in old)
    )
    after = {frame: leaf for world in news for frame, leaf in starts(world).items()}
    assert after.keys() >= before.keys()
    assert all(after[frame] == leaf for frame, leaf in before.items()), "priorities are kept"
    if n_step == 1:
        assert after.keys() == before.keys()
    assert {after[frame] for frame in after.keys() - before.keys()} <= {7.0}
    assert sum(len(starts(world)) for world in news) == len(after), "none is duplicated"
    for world in news:
        expect_log(world, old)
    for world in news:  # and it works as any other once these rows are overwritten
        for _ in range(world.rows):
            world.step([None] * world.num_envs)
        assert world.replay.sample().discount.numpy() == pytest.approx(GAMMA**n_step)


def test_if_not_all_fit_the_oldest_are_dropped():
    old = [
        World(capacity=200, num_envs=2, prioritized=True, first_frame=1 + 10_000 * r)
        for r in range(2)
    ]
    for world in old:
        world.walk(99, end_probability=0.0)
    (new,) = redistribute_over(old, 1, 2, rows=100)
    kept = starts(new)
    assert 180 <= len(kept) <= 200
    for world in old:
        newest = [max(log[-1].frames) for log in world.episodes]
        assert all(frame - world.num_envs in kept for frame in newest)


def test_too_few_steps_for_the_ranks_are_rejected():
    world = World(capacity=40, num_envs=1, prioritized=True)
    world.walk(10, end_probability=0.0)
    with pytest.raises(UserError, match="too few for 6 environments"):
        redistribute_over([world], 3, 2, rows=40)
