"""Everything around the loop: records, evaluations, checkpoints, and what a person sees."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import torch

from hvd_dqn import schedules
from hvd_dqn.actor import GreedyPolicy
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.evaluation import CLOSING, PERIODIC, EvaluationResult
from hvd_dqn.learner import Learner, LearnerStatistics, NonFiniteError
from hvd_dqn.metrics import Meter
from hvd_dqn.resources import Resources
from hvd_dqn.structs import Episode, Progress


class Summary(NamedTuple):
    """How a run ended; the same on every rank but for `seconds`, which are this rank's."""

    score: EvaluationResult
    last_mean: float
    progress: Progress
    seconds: float


class Observer:
    """Watches a run by its counters; the loop calls it after every iteration."""

    def __init__(
        self,
        config: Config,
        communicator: Communicator,
        resources: Resources,
        learner: Learner,
        progress: Progress,
    ) -> None:
        self._config = config
        self._comm = communicator
        self._resources = resources
        self._learner = learner
        self._policy = GreedyPolicy(learner.online, resources.device)
        self._progress = progress
        self._meter = Meter(communicator, loss_name=config.objective.loss_name)
        self._best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        self._last_mean = float("nan")

    def add_episodes(self, episodes: list[Episode]) -> None:
        """Keep the episodes that a step of this rank's environments ended."""
        self._meter.add_episodes(episodes)

    def after_iteration(self, env_steps: int) -> None:
        """Write and evaluate where a period ended in the last `env_steps`, or the run did.
        Collective.
        """
        progress, config = self._progress, self._config
        last = progress.env_steps >= config.total_env_steps
        if last or _period_ended(progress.env_steps, env_steps, config.logging.period_env_steps):
            self._log()
        evaluates = _period_ended(progress.env_steps, env_steps, config.evaluation.period_env_steps)
        if last or (evaluates and progress.updates > 0):
            self._evaluate()

    def conclude(self) -> Summary:
        """The closing evaluation: of the best network so far, on episodes that had no part in
        choosing it. Collective.
        """
        assert self._best is not None, "the last iteration evaluates"
        _, best_env_steps, state = self._best
        self._learner.online.load_state_dict(state)
        episodes = self._config.evaluation.final_episodes
        self._resources.display.say(
            f"closing evaluation of the network of {best_env_steps:,} env steps: {episodes} "
            "episodes"
        )
        score = self._resources.evaluator.evaluate(self._policy, episodes=episodes, purpose=CLOSING)
        self._write_evaluation("closing", score)
        return Summary(score, self._last_mean, self._progress, self._meter.seconds)

    def state_dict(self) -> dict[str, Any]:
        """The records under way, and the best network so far."""
        best = None
        if self._best is not None:
            rating, env_steps, network = self._best
            best = {"rating": rating, "env_steps": env_steps, "network": network}
        return {"meter": self._meter.state_dict(), "best": best, "last_mean": self._last_mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._meter.load_state_dict(state["meter"])
        self._last_mean = state["last_mean"]
        best = state["best"]
        if best is not None:
            device = self._resources.device
            network = {name: tensor.to(device) for name, tensor in best["network"].items()}
            self._best = (best["rating"], best["env_steps"], network)

    def save_last_good(self) -> None:
        """Keep the network as it is, if it is good."""
        if self._learner.parameters_are_finite():
            self._save(None)

    def _log(self) -> None:
        metrics = self._meter.record(
            self._progress,
            self._learner.statistics,
            epsilon=self._mean_epsilon(),
            learning_rate=self._learner.learning_rate,
        )
        self._learner.statistics = LearnerStatistics()
        self._resources.sink.write(self._progress, self._meter.seconds, metrics)
        self._resources.display.update(self._progress, metrics)

    def _mean_epsilon(self) -> float:
        """Over the environments of all ranks."""
        total = self._comm.world_size * self._config.env.num_envs
        every = schedules.epsilon(
            self._config.exploration, self._progress.env_steps, first=0, count=total, total=total
        )
        return float(every.mean())

    def _evaluate(self) -> None:
        with self._learner.shared_parameters():
            self._evaluate_shared()

    def _evaluate_shared(self) -> None:
        progress = self._progress
        finite = self._comm.gather(self._learner.parameters_are_finite())
        if not all(finite):
            raise NonFiniteError(
                f"a parameter of rank {finite.index(False)} is not finite after update "
                f"{progress.updates}: lower optimizer.learning_rate"
            )
        began = time.perf_counter()
        result = self._resources.evaluator.evaluate(
            self._policy, episodes=self._config.evaluation.episodes, purpose=PERIODIC
        )
        self._last_mean = result.mean
        rating = result.mean if math.isfinite(result.mean) else -math.inf
        if self._best is None or rating >= self._best[0]:
            state = {k: v.clone() for k, v in self._learner.online.state_dict().items()}
            self._best = (rating, progress.env_steps, state)
        self._write_evaluation("evaluation", result)
        self._resources.display.say(
            f"evaluation at {progress.env_steps:,} env steps: {result.mean:.1f} ± {result.std:.1f} "
            f"over {len(result.returns)} episodes"
        )
        self._save(rating)
        self._meter.leave_out(time.perf_counter() - began)

    def _write_evaluation(self, section: str, result: EvaluationResult) -> None:
        metrics = {
            f"{section}/return_mean": result.mean,
            f"{section}/return_std": result.std,
            f"{section}/episodes": float(len(result.returns)),
        }
        self._resources.sink.write(self._progress, self._meter.seconds, metrics)

    def _save(self, evaluation_mean: float | None) -> None:
        if self._comm.is_root:
            self._resources.checkpoints.save(
                self._learner.online,
                env_steps=self._progress.env_steps,
                updates=self._progress.updates,
                evaluation_mean=evaluation_mean,
            )


def _period_ended(env_steps: int, last: int, period: int) -> bool:
    """Whether a multiple of `period` lies in the `last` env steps up to `env_steps`."""
    return env_steps // period > (env_steps - last) // period
