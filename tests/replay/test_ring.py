"""The ring against a log that keeps every episode apart and knows nothing of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hvd_dqn.replay import ReplayBuffer

GAMMA = 0.9


class Episode:
    """What one environment really saw: observations, actions, rewards, and how it ended."""

    def __init__(self, first: float) -> None:
        self.obs = [first]
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.end: str | None = None

    def transition(self, start: int, n: int) -> tuple[float, int, float, float, float]:
        """(obs, action, reward, discount, next_obs) of the window from `start`, by
        definition.
        """
        length = min(n, len(self.actions) - start)
        reward = sum(GAMMA**k * self.rewards[start + k] for k in range(length))
        at_end = start + length == len(self.actions)
        discount = 0.0 if at_end and self.end == "terminated" else GAMMA**length
        return self.obs[start], self.actions[start], reward, discount, self.obs[start + length]

    def complete(self, start: int, n: int) -> bool:
        return self.end is not None or start + n <= len(self.actions)


class World:
    """Environments whose every observation is a number seen once, feeding a ring and a log."""

    def __init__(
        self, *, capacity: int, num_envs: int, n_step: int, seed: int, batch_size: int = 256
    ) -> None:
        self.n_step = n_step
        self.num_envs = num_envs
        self.rows = capacity // num_envs
        self.rng = np.random.default_rng(seed)
        self.ring = ReplayBuffer(
            capacity=capacity,
            num_envs=num_envs,
            obs_shape=(1,),
            obs_dtype=np.dtype(np.float32),
            gamma=GAMMA,
            n_step=n_step,
            batch_size=batch_size,
            rng=np.random.default_rng(seed + 1),
            device=torch.device("cpu"),
        )
        self.counter = 0
        self.episodes = [[Episode(self.fresh())] for _ in range(num_envs)]
        self.ring.start(self.as_obs([log[-1].obs[0] for log in self.episodes]))

    def fresh(self) -> float:
        self.counter += 1
        return float(self.counter)

    @staticmethod
    def as_obs(values: list[float]) -> np.ndarray:
        return np.array(values, dtype=np.float32)[:, None]

    def step(self, ends: list[str | None]) -> None:
        actions = self.rng.integers(0, 5, self.num_envs)
        rewards = self.rng.normal(size=self.num_envs).astype(np.float32)
        next_obs, obs = [], []
        for log, action, reward, end in zip(self.episodes, actions, rewards, ends, strict=True):
            episode = log[-1]
            episode.obs.append(self.fresh())
            episode.actions.append(int(action))
            episode.rewards.append(float(reward))
            episode.end = end
            next_obs.append(episode.obs[-1])
            if end is not None:
                log.append(Episode(self.fresh()))
            obs.append(log[-1].obs[-1])
        self.ring.add(
            action=actions,
            reward=rewards,
            terminated=np.array([end == "terminated" for end in ends]),
            truncated=np.array([end == "truncated" for end in ends]),
            ended=np.array([end is not None for end in ends]),
            next_obs=self.as_obs(next_obs),
            obs=self.as_obs(obs),
        )

    def valid(self) -> dict[float, tuple[float, int, float, float, float]]:
        """By first observation, every transition that the ring must be able to give: those whose
        row is among the last `rows` of its environment (a final observation takes a row too) and
        whose window is complete.
        """
        found = {}
        for log in self.episodes:
            rows: list[tuple[Episode, int] | None] = []
            for episode in log:
                rows += [(episode, start) for start in range(len(episode.actions))]
                if episode.end is not None:
                    rows.append(None)
            for row in rows[-self.rows :]:
                if row is not None and row[0].complete(row[1], self.n_step):
                    transition = row[0].transition(row[1], self.n_step)
                    found[transition[0]] = transition
        return found


ENDS = st.sampled_from([None, None, None, None, "terminated", "truncated"])


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), num_envs=st.integers(1, 3), n_step=st.integers(1, 5), rows=st.integers(7, 20)
)
def test_samples_are_the_logs_transitions_and_all_of_them(data, num_envs, n_step, rows):
    world = World(
        capacity=rows * num_envs,
        num_envs=num_envs,
        n_step=n_step,
        seed=data.draw(st.integers(0, 99)),
    )
    for ends in data.draw(
        st.lists(st.lists(ENDS, min_size=num_envs, max_size=num_envs), min_size=1, max_size=60)
    ):
        world.step(ends)
    expected = world.valid()
    if not expected:
        with pytest.raises(ValueError, match="no complete transition"):
            world.ring.sample()
        return
    seen = set()
    for _ in range(4):
        batch = world.ring.sample()
        for i in range(len(batch.action)):
            start = batch.obs[i].item()
            assert start in expected, "a start that the log does not allow"
            _, action, reward, discount, next_obs = expected[start]
            assert batch.action[i].item() == action
            assert batch.reward[i].item() == pytest.approx(reward, rel=1e-5, abs=1e-6)
            assert batch.discount[i].item() == pytest.approx(discount, rel=1e-6)
            if discount > 0:
                assert batch.next_obs[i].item() == next_obs
            seen.add(start)
    # 1,024 draws over at most 60 starts: one of them missing has a chance below 10⁻⁵
    assert seen == set(expected)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("steps", [25, 200])
def test_every_valid_start_is_equally_likely(n_step, steps):
    world = World(capacity=120, num_envs=4, n_step=n_step, seed=3, batch_size=40_000)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        # environments end at very different rates, so that their shares of the ring differ
        draw = rng.random(4)
        world.step(
            [
                (
                    "truncated"
                    if draw[i] < 0.02 * 3**i / 2
                    else "terminated"
                    if draw[i] < 0.02 * 3**i
                    else None
                )
                for i in range(4)
            ]
        )
    expected = world.valid()
    starts, counts = np.unique(world.ring.sample().obs.numpy(), return_counts=True)
    assert set(starts.tolist()) == set(expected)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_truncated_episode_bootstraps_from_its_true_last_observation():
    world = World(capacity=30, num_envs=1, n_step=1, seed=0)
    world.step([None])
    world.step(["truncated"])
    world.step([None])
    batch = world.ring.sample()
    last = (batch.obs == 2.0).flatten()  # o₀ = 1, o₁ = 2, final o₂ = 3, reset 4
    assert last.any()
    assert set(batch.next_obs[last].flatten().tolist()) == {3.0}
    torch.testing.assert_close(batch.discount[last], torch.full((int(last.sum()),), GAMMA))
    assert 3.0 not in batch.obs, "the step into the reset is no transition"


def test_gamma_is_applied_once_an_n_step_window():
    world = World(capacity=30, num_envs=1, n_step=3, seed=0)
    for _ in range(5):
        world.step([None])
    batch = world.ring.sample()
    torch.testing.assert_close(batch.discount, torch.full_like(batch.discount, GAMMA**3))


def test_the_newest_transition_is_there_at_once():
    world = World(capacity=30, num_envs=2, n_step=1, seed=0)
    with pytest.raises(ValueError, match="no complete transition"):
        world.ring.sample()
    world.step([None, None])
    assert set(world.ring.sample().obs.flatten().tolist()) == {1.0, 2.0}


def test_images_are_kept_as_bytes_and_only_once():
    ring = ReplayBuffer(
        capacity=1000,
        num_envs=2,
        obs_shape=(3, 4),
        obs_dtype=np.dtype(np.uint8),
        gamma=0.99,
        n_step=1,
        batch_size=8,
        rng=np.random.default_rng(0),
        device=torch.device("cpu"),
    )
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    ring.start(frames)
    flags = np.zeros(2, dtype=bool)
    ring.add(
        action=np.array([1, 2]), reward=np.ones(2, np.float32), terminated=flags, truncated=flags,
        ended=flags, next_obs=frames + 24, obs=frames + 24,
    )  # fmt: skip
    batch = ring.sample()
    assert batch.obs.dtype == torch.uint8
    assert batch.obs.shape == (8, 3, 4)
    assert torch.equal(batch.next_obs, batch.obs + 24)
