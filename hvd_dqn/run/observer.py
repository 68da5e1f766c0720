"""Everything around the loop: records, evaluations, saved networks and the display."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from hvd_dqn.acting.evaluation import CLOSING, PERIODIC, EvaluationResult
from hvd_dqn.acting.exploration import Exploration
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.state import DistributedState
from hvd_dqn.common.structs import Episode, Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import Learner, LearnerStatistics, NonFiniteError
from hvd_dqn.methods.registry import method_of
from hvd_dqn.methods.schedules import period_ended
from hvd_dqn.networks.saved import EvaluatedNetwork
from hvd_dqn.replay import Experience
from hvd_dqn.reporting.metrics import (
    Callback,
    Evaluation,
    Event,
    EventKind,
    Meter,
    Metrics,
    ReplayStatistics,
)
from hvd_dqn.run.outputs import Outputs
from hvd_dqn.run.resources import Resources
from hvd_dqn.run.start import Start
from hvd_dqn.run.summary import Summary, save_summary

_STOPPED_AT_END = "stopped during the final evaluation; the last checkpoint is complete"


class Observer:
    """Records and evaluates a run; the loop calls it after every iteration."""

    def __init__(
        self,
        config: Config,
        communicator: Communicator,
        resources: Resources,
        learner: Learner,
        experience: Experience,
        progress: Progress,
        clock: StageClock,
        exploration: Exploration,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._clock = clock
        self._exploration = exploration
        self._callbacks = callbacks
        self._config = config
        self._comm = communicator
        self._resources = resources
        self._learner = learner
        self._experience = experience
        self._policy = GreedyPolicy(learner.online, resources.device)
        self._progress = progress
        self._meter = Meter(
            communicator,
            clock,
            loss_name=method_of(config.objective).loss_name,
            info_keys=config.logging.info_keys,
        )
        self._best: EvaluatedNetwork | None = None
        self._last_mean = float("nan")
        self._evaluation_is_due = False
        self._updates_before = 0
        self._said_truncated = ""
        self._told_of_signals = False

    @property
    def _outputs(self) -> Outputs:
        return self._resources.outputs

    @property
    def wants_stop(self) -> bool:
        """Return whether this rank was asked to stop."""
        return self._resources.stop()

    def begin(self, start: Start, differences: Iterable[str]) -> None:
        """Report where the run resumes, what has changed since, and the `differences` from a run
        that was never stopped. Remove saved networks that are newer than the checkpoint, and save
        the best one again if it is missing.
        """
        self._updates_before = self._progress.updates
        if self._comm.is_root:
            networks = self._resources.networks
            networks.remove_after(start.env_steps)
            if self._best is not None and not networks.has(self._best.env_steps):
                self._save(self._best)
        say = self._outputs.display.say
        for text in start.passed_over:
            say(f"skipped {start.source}/{text}")
        if start.manifest is not None:
            ranks = len(start.manifest.ranks)
            other = "" if ranks == self._comm.world_size else f", saved by {ranks} ranks"
            say(f"resuming from {start.source}/{start.manifest.directory}{other}")
        for name, (before, now) in start.changed.items():
            say(f"{name.replace('_', '-')} changes from {before!r} to {now!r}")
        for line in differences:
            say(line)
        self._reclaim_signals()

    def add_episodes(self, episodes: list[Episode]) -> None:
        """Add the episodes that ended in a step of this rank's environments."""
        self._meter.add_episodes(episodes)

    def after_iteration(self, env_steps: int, *, stopping: bool) -> bool:
        """Record and evaluate if a period, or the run, ended within the last `env_steps`.

        Returns whether an evaluation remains to be done, because the run is `stopping` or was
        asked to stop during the evaluation. Collective.
        """
        progress, config = self._progress, self._config
        last = progress.env_steps >= config.total_env_steps
        logs, evaluates = (
            last or period_ended(progress.env_steps, env_steps, period)
            for period in (config.logging.period_env_steps, config.evaluation.period_env_steps)
        )
        if logs or evaluates:
            self._learner.synchronize()  # so that the record includes the last update
        if logs:
            self._log()
        self._clock.lap("records")
        self._evaluation_is_due = last or (evaluates and progress.updates > 0)
        return not stopping and not self.evaluate_if_due()

    def evaluate_if_due(self) -> bool:
        """Evaluate if one is due. Returns whether none remains to be done. Collective."""
        if self._evaluation_is_due:
            self._learner.synchronize()
            with self._learner.shared_parameters():
                self._evaluation_is_due = not self._evaluate()
        return not self._evaluation_is_due

    def conclude(self, stopped: str = "") -> Summary:
        """Run the final evaluation: the best network, on episodes not used to select it.
        Collective. `stopped` says why a callback ended the run early.

        Raises `StoppedError` on all ranks if one is asked to stop meanwhile.
        """
        self._resources.stop.settle()
        if self._best is None:  # no evaluation was due before the callback's stop
            self._evaluation_is_due = True
        if not self.evaluate_if_due() or self._best is None:
            raise StoppedError(_STOPPED_AT_END)
        best_env_steps = self._best.env_steps
        self._learner.online.load_state_dict(self._best.network)
        episodes = self._config.evaluation.final_episodes
        self._outputs.display.say(
            f"final evaluation of the network of {best_env_steps:,} env steps: {episodes} episodes"
        )
        self._outputs.display.evaluating()
        score = self._resources.evaluator.evaluate(self._policy, episodes=episodes, purpose=CLOSING)
        if score is None:
            raise StoppedError(_STOPPED_AT_END)
        self._write_evaluation("closing", score)
        self._say_truncated(score)
        summary = Summary(score, self._last_mean, self._progress, self._meter.seconds, stopped)
        if self._comm.is_root:
            save_summary(self._resources.run_dir, summary)
        return summary

    def state_dict(self) -> DistributedState:
        """Return the best network so far, whether an evaluation is due, and the current period."""
        shared = {
            "best": None if self._best is None else self._best._asdict(),
            "last_mean": self._last_mean,
            "evaluation_is_due": self._evaluation_is_due,
        }
        return DistributedState(shared, per_rank={"meter": self._meter.state_dict()})

    def load_state_dict(self, state: DistributedState, *, mine: bool) -> None:
        """Restore a `state_dict`. `mine`: `state.per_rank` was saved by this rank."""
        self._meter.load_state_dict(state.per_rank["meter"], mine=mine)
        self._last_mean = state.shared["last_mean"]
        self._evaluation_is_due = state.shared["evaluation_is_due"]
        best = state.shared["best"]
        if best is not None:
            device = self._resources.device
            network = {name: tensor.to(device) for name, tensor in best["network"].items()}
            self._best = EvaluatedNetwork(**best | {"network": network})

    def save_last_good(self) -> None:
        """Save the current network if its parameters are finite."""
        if self._learner.parameters_are_finite():
            self._save(self._evaluated(math.nan))

    def _reclaim_signals(self) -> None:
        """Take back signals from the environments, and say so once."""
        stop = self._resources.stop
        stop.reclaim()
        if stop.taken and not self._told_of_signals:
            self._told_of_signals = True
            self._outputs.display.say(
                f"the environment or a package had replaced the handlers of "
                f"{', '.join(sorted(stop.taken))}; these signals request a stop again"
            )

    def _log(self) -> None:
        self._reclaim_signals()
        ranks = self._comm.world_size
        metrics = self._meter.record(
            self._progress,
            self._learner.statistics,
            epsilon=self._exploration.mean_epsilon(self._progress.env_steps),
            learning_rate=self._learner.learning_rate,
            replay=ReplayStatistics(
                self._experience.transitions,
                self._experience.age,
                self._config.global_batch_size(ranks) / ranks,
                self._config.env.num_envs,
            ),
        )
        self._learner.statistics = LearnerStatistics()
        self._tell("record", metrics)
        self._outputs.display.update(self._progress, metrics)

    def _evaluate(self) -> bool:
        """Evaluate the current network. Returns whether the evaluation was completed."""
        progress = self._progress
        finite = self._comm.gather(self._learner.parameters_are_finite())
        if not all(finite):
            raise NonFiniteError(
                f"a parameter of rank {finite.index(False)} is not finite after update "
                f"{progress.updates}: lower optimizer.learning_rate"
            )
        began = time.perf_counter()
        self._outputs.display.evaluating()
        result = self._resources.evaluator.evaluate(
            self._policy, episodes=self._config.evaluation.episodes, purpose=PERIODIC
        )
        if result is None:
            return False
        self._last_mean = result.mean
        evaluated = self._evaluated(result.mean if math.isfinite(result.mean) else -math.inf)
        if self._best is None or evaluated.mean >= self._best.mean:
            self._best = evaluated
        metrics = self._write_evaluation("evaluation", result)
        best = self._best.mean, self._best.env_steps
        self._outputs.display.evaluated(progress.env_steps, metrics, best)
        self._say_truncated(result)
        self._save(evaluated)
        if self._comm.is_root:
            self._show()
        if self._config.logging.video:
            self._comm.gather(None)  # so that no rank counts the root's video as training time
        self._meter.exclude(time.perf_counter() - began)
        self._clock.restart()
        return True

    def _write_evaluation(self, section: Evaluation, result: EvaluationResult) -> Metrics:
        metrics = {
            f"{section}/return_mean": result.mean,
            f"{section}/return_std": result.std,
            f"{section}/episodes": float(len(result.returns)),
            **{f"{section}/info/{key}": mean for key, mean in result.infos.items()},
        }
        self._tell(section, metrics)
        return metrics

    def _say_truncated(self, result: EvaluationResult) -> None:
        line = self._resources.evaluator.truncated(result)
        if line and line != self._said_truncated:
            self._outputs.display.say(line)
        self._said_truncated = line

    def _show(self) -> None:
        """Log histograms and a video of the current network, as configured."""
        outputs, env_steps = self._outputs, self._progress.env_steps
        if self._config.logging.histograms:
            values, updated = {}, self._progress.updates > self._updates_before
            for name, parameter in self._learner.online.named_parameters():
                values[f"parameters/{name}"] = _copy(parameter.detach())
                if parameter.grad is not None and updated:
                    values[f"gradients/{name}"] = _copy(parameter.grad)
            outputs.sink.histograms(env_steps, values)
        if outputs.recorder is not None:
            path = self._resources.run_dir.videos / f"{env_steps}.gif"
            try:
                if outputs.recorder.record_gif(self._policy.values, path):
                    outputs.sink.video(env_steps, path)
            except Exception as error:  # a video must not end a run
                outputs.recorder = None
                outputs.display.say(f"no more videos: {type(error).__name__}: {error}")

    def _tell(self, kind: EventKind, metrics: Metrics) -> None:
        """Write a record, and call the callbacks on every rank."""
        seconds, progress = self._meter.seconds, self._progress
        self._outputs.sink.write(progress, seconds, metrics)
        for callback in self._callbacks:
            callback(
                Event(
                    kind,
                    progress.env_steps,
                    progress.updates,
                    seconds,
                    dict(metrics),
                    self._comm.rank,
                    self._comm.world_size,
                    self._resources.stop.request,
                )
            )

    def _evaluated(self, mean: float) -> EvaluatedNetwork:
        """Return a copy of the current online network with its mean return."""
        state = {k: v.clone() for k, v in self._learner.online.state_dict().items()}
        return EvaluatedNetwork(self._progress.env_steps, self._progress.updates, mean, state)

    def _save(self, evaluated: EvaluatedNetwork) -> None:
        if not self._comm.is_root:
            return
        try:
            self._resources.networks.save(evaluated)
        except (
            OSError,
            UserError,
        ) as error:  # the best one is in memory and in the next checkpoint
            self._outputs.display.say(f"the network was not saved: {error}")


def _copy(tensor: Tensor) -> np.ndarray:
    """Return a copy on the host, which later updates do not change."""
    array: np.ndarray = tensor.cpu().numpy().copy()
    return array
