"""The metrics of a run: one record per logging period, over all ranks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hvd_dqn.common.stages import STAGES, StageClock
from hvd_dqn.common.structs import Episode, Progress, mean_infos
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import LearnerStatistics

Metrics = dict[str, float]
"""Numbers by metric name. Metrics of single ranks are named `rank/NAME/R` and not sent to loggers.
"""


Evaluation = Literal["evaluation", "closing"]
EventKind = Literal["record", "evaluation", "closing"]


class Event(NamedTuple):
    """What a callback receives: a record, an evaluation or the final (`closing`) evaluation.

    Every rank gets it at the same update and with the same numbers, except `seconds`, which are
    this rank's. Call `stop(reason)` on any rank to stop all ranks at the same later update, with a
    checkpoint.
    """

    kind: EventKind
    env_steps: int
    updates: int
    seconds: float
    metrics: Metrics
    rank: int
    world_size: int
    stop: Callable[[str], None]


Callback = Callable[[Event], None]


class ReplayStatistics(NamedTuple):
    """The replay of one rank: number of transitions; mean age of those sampled last, in steps of
    the vector environment (NaN if none were); transitions per update, on average; environments.
    """

    transitions: int
    age: float
    batch_size: float
    num_envs: int


class Meter:
    """Collects the numbers of one rank between records and computes the record over all ranks,
    which is the same on each.
    """

    def __init__(
        self,
        communicator: Communicator,
        clock: StageClock,
        *,
        loss_name: str,
        info_keys: Sequence[str] = (),
    ) -> None:
        """`info_keys` names the numbers in `Episode.infos`."""
        self._info_keys = info_keys
        self._clock = clock
        self._comm = communicator
        self._loss_name = loss_name
        self._episodes: list[Episode] = []
        self._started = self._last_time = time.perf_counter()
        self._last_env_steps = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run on this rank."""
        return time.perf_counter() - self._started

    def exclude(self, seconds: float) -> None:
        """Exclude `seconds` of this period, spent on something other than training."""
        self._last_time += seconds

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """Count the episodes that ended in a step."""
        self._episodes += episodes

    def state_dict(self) -> dict[str, Any]:
        """Episodes and times since the last record, and the seconds of the run so far."""
        now = time.perf_counter()
        return {
            "episodes": [list(episode) for episode in self._episodes],
            "seconds": now - self._started,
            "period_seconds": now - self._last_time,
            "last_env_steps": self._last_env_steps,
            "stages": self._clock.seconds,
        }

    def load_state_dict(self, state: dict[str, Any], *, mine: bool = True) -> None:
        """Restore a `state_dict`; time continues from there. If it is another rank's (not `mine`),
        drop its episodes.
        """
        now = time.perf_counter()
        self._episodes = [Episode(*values) for values in state["episodes"]] if mine else []
        self._started = now - state["seconds"]
        self._last_time = now - state["period_seconds"]
        self._last_env_steps = state["last_env_steps"]
        self._clock.put_back(state["stages"])

    def record(
        self,
        progress: Progress,
        learner: LearnerStatistics,
        *,
        epsilon: float,
        learning_rate: float,
        replay: ReplayStatistics,
    ) -> Metrics:
        """Return the record of the period that ends now, and start the next. Collective."""
        now = time.perf_counter()
        elapsed = max(now - self._last_time, 1e-9)
        stages = self._clock.take()
        period = max(sum(stages.values()), 1e-9)  # waits in collectives differ between ranks
        mine = {
            "elapsed": elapsed,
            "episodes": [list(episode) for episode in self._episodes],
            "shares": {stage: seconds / period for stage, seconds in stages.items()},
            "hidden_share": learner.on_its_way_seconds / period,
            "drift": learner.drift,
            "replay": replay,
        }
        ranks = self._comm.gather(mine)
        elapsed = ranks[0]["elapsed"]  # the same rate on every rank
        env_steps = progress.env_steps - self._last_env_steps
        episodes = [Episode(*values) for rank in ranks for values in rank["episodes"]]
        metrics: Metrics = {
            "exploration/epsilon": epsilon,
            "speed/env_steps_per_second": env_steps / elapsed,
            "speed/updates_per_second": learner.updates / elapsed,
            "distributed/transfer_share": min(r["shares"]["averaging"] for r in ranks),
            "distributed/hidden_share": statistics.fmean(r["hidden_share"] for r in ranks),
            "distributed/drift_max": max(rank["drift"] for rank in ranks),
            "distributed/resyncs": learner.resyncs,
        }
        parts = [ReplayStatistics(*rank["replay"]) for rank in ranks]
        metrics["replay/transitions"] = sum(part.transitions for part in parts)
        if learner.updates:
            drawn = learner.updates * sum(part.batch_size for part in parts)
            metrics["replay/ratio"] = drawn / env_steps
            steps = sum(part.num_envs for part in parts)
            metrics["replay/age_env_steps"] = statistics.fmean(p.age for p in parts) * steps
        for number, rank in enumerate(ranks):
            metrics[f"rank/waiting/{number}"] = rank["shares"]["averaging"]
        for stage in STAGES:
            metrics[f"time/{stage}"] = statistics.fmean(r["shares"][stage] for r in ranks)
        if episodes:
            metrics |= episode_metrics(episodes)
            infos = mean_infos(episodes, self._info_keys)
            metrics |= {f"info/{key}": mean for key, mean in infos.items()}
        if learner.updates:
            metrics |= {
                "gradient/norm_mean": learner.grad_norm / learner.updates,
                "optimizer/learning_rate": learning_rate,
            }
        if learner.agreed:
            metrics |= {
                self._loss_name: learner.loss / learner.agreed,
                "td/abs_error_mean": learner.abs_td_error / learner.agreed,
                "q/taken_mean": learner.value / learner.agreed,
            }
        self._episodes = []
        self._last_time, self._last_env_steps = now, progress.env_steps
        return metrics


def episode_metrics(episodes: Sequence[Episode]) -> Metrics:
    """Return count, mean, spread and percentiles of the returns of `episodes`, and their mean
    length.
    """
    returns = np.array([episode.episode_return for episode in episodes])
    p10, median, p90 = np.percentile(returns, (10, 50, 90))
    return {
        "episode/count": len(episodes),
        "episode/return_mean": float(returns.mean()),
        "episode/return_std": float(returns.std()),
        "episode/return_min": float(returns.min()),
        "episode/return_p10": float(p10),
        "episode/return_median": float(median),
        "episode/return_p90": float(p90),
        "episode/return_max": float(returns.max()),
        "episode/length_mean": statistics.fmean(episode.length for episode in episodes),
    }
