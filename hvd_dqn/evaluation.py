"""Greedy evaluation, its episodes split over the ranks before the first one starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hvd_dqn.config import EnvConfig, EvaluationConfig
from hvd_dqn.distributed import Communicator
from hvd_dqn.envs import VectorEnvironment, make_vector_env
from hvd_dqn.seeding import Stream, derived_seed
from hvd_dqn.structs import Episode

PERIODIC, CLOSING, AFTERWARDS = range(3)
"""Purposes of an evaluation: each plays episodes of its own, so the closing score is of episodes
that chose nothing.
"""


class EvaluationResult(NamedTuple):
    """All episodes of an evaluation, over all ranks; the same on every rank."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))


class Evaluator:
    """Plays `episodes` greedy episodes over all ranks.

    Which episodes are played depends on the seed and the purpose, never on the number of ranks; and
    an environment plays as many as were given to it beforehand, so that short episodes are not
    counted more often than long ones.
    """

    def __init__(
        self,
        env: EnvConfig,
        config: EvaluationConfig,
        *,
        episodes: int,
        seed: int,
        purpose: int,
        communicator: Communicator,
    ) -> None:
        rank, ranks = communicator.rank, communicator.world_size
        share = len(range(rank, episodes, ranks))
        slots = max(1, min(env.num_envs, share))
        self._comm = communicator
        self._quota = np.array([len(range(slot, share, slots)) for slot in range(slots)])

        def episode_seed(slot: int, number: int) -> int:
            return derived_seed(
                seed, Stream.EVALUATION, purpose, (number * slots + slot) * ranks + rank
            )

        self.envs: VectorEnvironment = make_vector_env(
            env,
            num_envs=slots,
            episode_seed=episode_seed,
            max_episode_steps=config.max_episode_steps,
        )

    def evaluate(self, policy: Callable[[np.ndarray], np.ndarray]) -> EvaluationResult:
        """Play every episode from its beginning. Collective."""
        mine = self._play(policy)
        everyone = self._comm.gather([list(episode) for episode in mine])
        episodes = [Episode(*values) for rank in everyone for values in rank]
        return EvaluationResult([e.episode_return for e in episodes], [e.length for e in episodes])

    def close(self) -> None:
        """End the environments."""
        self.envs.close()

    def _play(self, policy: Callable[[np.ndarray], np.ndarray]) -> list[Episode]:
        played = np.zeros_like(self._quota)
        kept: list[Episode] = []
        obs = self.envs.reset()
        while (played < self._quota).any():
            step = self.envs.step(policy(obs))
            for slot, episode in zip(
                np.flatnonzero(step.terminated | step.truncated), step.episodes, strict=True
            ):
                if played[slot] < self._quota[slot]:
                    kept.append(episode)
                played[slot] += 1
            obs = step.obs
        return kept
