"""Greedy evaluation, with episodes divided among the ranks in advance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.seeding import Stream, derived_seed
from hvd_dqn.common.structs import Episode, mean_infos
from hvd_dqn.config import EnvConfig, EvaluationConfig
from hvd_dqn.distributed import Communicator
from hvd_dqn.envs import EpisodesLostError, VectorEnvironment, make_vector_env

_SECONDS_BETWEEN_LINES = 15.0
PERIODIC, CLOSING, AFTERWARDS = range(3)
"""Purposes of an evaluation. Each has its own episodes, so the final score comes from episodes
that were not used to select the network.
"""


class EvaluationResult(NamedTuple):
    """The episodes of an evaluation, over all ranks; the same on every rank. `infos` has the means
    of the numbers in the episodes' infos, by key.
    """

    returns: list[float]
    lengths: list[int]
    infos: Mapping[str, float] = MappingProxyType({})

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))


class Evaluator:
    """Plays greedy episodes over all ranks, in its own environments or those of the training.

    The episodes depend on the seed and the purpose, not on the number of ranks. Each environment
    plays a fixed number of them, so that short episodes do not count more often than long ones.
    `seed` can be changed between evaluations. `note` says in one line why the evaluations use the
    training environments although that was not asked for; it is empty if they do not.
    """

    def __init__(
        self,
        env: EnvConfig,
        config: EvaluationConfig,
        *,
        seed: int,
        communicator: Communicator,
        training: VectorEnvironment | None = None,
        threads: int = 1,
        info_keys: Sequence[str] = (),
        on_step: Callable[[], None] = lambda: None,
        wants_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`training`: the environments that `evaluation.envs` may lend.

        Raises `UserError` if the environments cannot be made.
        """
        self._wants_stop = wants_stop
        self.say: Callable[[str], None] | None = None
        """Gets a line now and then while an evaluation of this rank takes long."""
        self._info_keys = info_keys
        self._comm = communicator
        self._max_steps = config.max_episode_steps
        self.seed = seed
        self.note = ""
        self._purpose = PERIODIC
        # With env.ranks_per_env, only the training environments have ranks to run on.
        if training is not None and (config.envs == "training" or env.ranks_per_env):
            self.envs = self._borrow(training)
            return
        try:
            self.envs = make_vector_env(
                env,
                num_envs=env.num_envs,
                episode_seed=self._episode_seed,
                rank=communicator.rank,
                first_copy=env.num_envs,
                max_episode_steps=config.max_episode_steps,
                threads=threads,
                info_keys=info_keys,
                on_step=on_step,
            )
        except UserError as error:
            if training is None:
                raise
            found = f"{error} (for evaluations, beside those that train)"
            if json.loads(config.env_kwargs):
                remedy = "without evaluation.env-kwargs, both can use the same environments"
                raise UserError(found, remedy) from error
            if config.envs == "own":
                remedy = "with --evaluation.envs training, both use the same environments"
                raise UserError(found, remedy) from error
            self.envs = self._borrow(training)
            self.note = (
                "evaluations use the training environments, because others cannot be made beside "
                f"them: {error}"
            )

    def _borrow(self, training: VectorEnvironment) -> VectorEnvironment:
        return training.lend(episode_seed=self._episode_seed, max_episode_steps=self._max_steps)

    def evaluate(
        self, policy: Callable[[np.ndarray], np.ndarray], *, episodes: int, purpose: int
    ) -> EvaluationResult | None:
        """Play `episodes` and return their results, or `None` if a rank was asked to stop.

        Collective.
        """
        self._purpose = purpose
        share = len(range(self._comm.rank, episodes, self._comm.world_size))
        slots = self.envs.num_envs
        quota = np.array([len(range(slot, share, slots)) for slot in range(slots)])
        while True:
            try:
                mine = [list(episode) for episode in self._play(policy, quota)]
                break
            except EpisodesLostError:
                continue  # all episodes again
        everyone = self._comm.gather([mine, self._wants_stop()])
        if any(stop for _, stop in everyone):
            return None
        played = [Episode(*values) for episodes, _ in everyone for values in episodes]
        infos = mean_infos(played, self._info_keys)
        return EvaluationResult(
            [e.episode_return for e in played], [e.length for e in played], infos
        )

    def truncated(self, result: EvaluationResult) -> str:
        """Return a line on episodes that `evaluation.max-episode-steps` ended; empty if none."""
        is_limited = self.envs.max_episode_steps == self._max_steps
        ended = is_limited * sum(length >= self._max_steps for length in result.lengths)
        if ended == 0:
            return ""
        return (
            f"{ended} of {len(result.lengths)} evaluation episodes had not ended after "
            f"{self._max_steps:,} steps and were cut (evaluation.max-episode-steps)"
        )

    def close(self) -> None:
        """Close the environments, unless they are those of the training."""
        self.envs.close()

    def _episode_seed(self, slot: int, number: int) -> int:
        """Return the seed of a slot's episode. All slots of all ranks share one sequence."""
        on_this_rank = number * self.envs.num_envs + slot
        position = on_this_rank * self._comm.world_size + self._comm.rank
        return derived_seed(self.seed, Stream.EVALUATION, self._purpose, position)

    def _play(self, policy: Callable[[np.ndarray], np.ndarray], quota: np.ndarray) -> list[Episode]:
        """Play the first `quota` [slots] episodes of every slot. Slots that are done keep stepping,
        without effect.
        """
        played = np.zeros_like(quota)
        kept: list[Episode] = []
        obs, steps, said = self.envs.reset(), 0, time.monotonic()
        while (played < quota).any() and not self._wants_stop():
            step = self.envs.step(policy(obs))
            ended = np.flatnonzero(step.ended)
            kept += [
                episode
                for slot, episode in zip(ended, step.episodes, strict=True)
                if played[slot] < quota[slot]
            ]
            played[ended] += 1
            obs, steps = step.obs, steps + 1
            if self.say is not None and time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                self.say(
                    f"evaluating: {len(kept)} of {quota.sum()} episodes of this rank, after "
                    f"{steps:,} steps of each environment"
                )
        return kept
