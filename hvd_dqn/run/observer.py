"""Everything around the loop: records, evaluations, networks, and what a person sees."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np
from torch import Tensor

from hvd_dqn.acting.evaluation import CLOSING, PERIODIC, EvaluationResult
from hvd_dqn.acting.exploration import Exploration
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.common.stages import StageClock
from hvd_dqn.common.state import SplitState
from hvd_dqn.common.structs import Episode, Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.learner import Learner, LearnerStatistics, NonFiniteError
from hvd_dqn.methods.registry import method_of
from hvd_dqn.methods.schedules import period_ended
from hvd_dqn.networks.saved import EvaluatedNetwork
from hvd_dqn.replay import ReplayBuffer
from hvd_dqn.reporting.metrics import Evaluation, Event, EventKind, Meter, Metrics, ReplayFacts
from hvd_dqn.run.resources import Resources
from hvd_dqn.run.start import Start


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
        replay: ReplayBuffer,
        progress: Progress,
        clock: StageClock,
        exploration: Exploration,
    ) -> None:
        self._clock = clock
        self._exploration = exploration
        self._config = config
        self._comm = communicator
        self._resources = resources
        self._learner = learner
        self._replay = replay
        self._policy = GreedyPolicy(learner.online, resources.device)
        self._progress = progress
        self._meter = Meter(communicator, clock, loss_name=method_of(config.objective).loss_name)
        self._best: EvaluatedNetwork | None = None
        self._last_mean = float("nan")
        self._evaluation_is_due = False
        self._updates_before = 0

    @property
    def wants_stop(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._resources.stop()

    def begin(self, start: Start, *, episodes_lost: int) -> None:
        """Say where the run goes on from, if it does not begin here, and what was not as before;
        leave no network that it has not made yet, and the best that it has.
        """
        self._updates_before = self._progress.updates
        if self._comm.is_root:
            networks = self._resources.networks
            networks.remove_after(start.env_steps)
            if self._best is not None and not networks.has(self._best.env_steps):
                self._save(self._best)
        say = self._resources.display.say
        for text in start.passed_over:
            say(f"passed over {start.source}/{text}")
        if start.manifest is not None:
            ranks = len(start.manifest.ranks)
            other = "" if ranks == self._comm.world_size else f", which {ranks} ranks made"
            say(f"going on from {start.source}/{start.manifest.directory}{other}")
        for name, (before, now) in start.changed.items():
            say(f"{name} was {before!r} and is {now!r} from here")
        if episodes_lost:
            say(
                f"{episodes_lost} environments could not go on in their episodes and begin new ones"
            )

    def add_episodes(self, episodes: list[Episode]) -> None:
        """Keep the episodes that a step of this rank's environments ended."""
        self._meter.add_episodes(episodes)

    def after_iteration(self, env_steps: int, *, stopping: bool) -> bool:
        """Write and evaluate where a period ended in the last `env_steps`, or the run did; an
        evaluation that is `stopping`, or is asked to stop, is left for later. Whether one was.
        Collective.
        """
        progress, config = self._progress, self._config
        last = progress.env_steps >= config.total_env_steps
        logs, evaluates = (
            last or period_ended(progress.env_steps, env_steps, period)
            for period in (config.logging.period_env_steps, config.evaluation.period_env_steps)
        )
        if logs or evaluates:
            self._learner.settle()  # what is written down has happened
        if logs:
            self._log()
        self._clock.lap("records")
        self._evaluation_is_due = last or (evaluates and progress.updates > 0)
        return not stopping and not self.evaluate_if_due()

    def evaluate_if_due(self) -> bool:
        """Whether no evaluation is left to do: what a stop had left is done now. Collective."""
        if self._evaluation_is_due:
            with self._learner.shared_parameters():
                self._evaluation_is_due = not self._evaluate()
        return not self._evaluation_is_due

    def conclude(self) -> Summary:
        """The closing evaluation: of the best network so far, on episodes that had no part in
        choosing it. Collective.
        """
        assert self._best is not None, "the last iteration evaluates"
        best_env_steps = self._best.env_steps
        self._learner.online.load_state_dict(self._best.network)
        episodes = self._config.evaluation.final_episodes
        self._resources.display.say(
            f"closing evaluation of the network of {best_env_steps:,} env steps: {episodes} "
            "episodes"
        )
        score = self._resources.evaluator.evaluate(self._policy, episodes=episodes, purpose=CLOSING)
        if score is None:
            raise StoppedError(
                "stopped in the closing evaluation; the checkpoint before it is whole"
            )
        self._write_evaluation("closing", score)
        return Summary(score, self._last_mean, self._progress, self._meter.seconds)

    def state_dict(self) -> SplitState:
        """The best network so far and what is left to do; the records under way."""
        shared = {
            "best": None if self._best is None else self._best._asdict(),
            "last_mean": self._last_mean,
            "evaluation_is_due": self._evaluation_is_due,
        }
        return SplitState(shared, own={"meter": self._meter.state_dict()})

    def load_state_dict(self, state: SplitState, *, mine: bool) -> None:
        """Put back what `state_dict` gave, on this rank or, not `mine`, on another."""
        self._meter.load_state_dict(state.own["meter"], mine=mine)
        self._last_mean = state.shared["last_mean"]
        self._evaluation_is_due = state.shared["evaluation_is_due"]
        best = state.shared["best"]
        if best is not None:
            device = self._resources.device
            network = {name: tensor.to(device) for name, tensor in best["network"].items()}
            self._best = EvaluatedNetwork(**best | {"network": network})

    def save_last_good(self) -> None:
        """Keep the network as it is, if it is good."""
        if self._learner.parameters_are_finite():
            self._save(self._evaluated(math.nan))

    def _log(self) -> None:
        metrics = self._meter.record(
            self._progress,
            self._learner.statistics,
            epsilon=self._exploration.mean_epsilon(self._progress.env_steps),
            learning_rate=self._learner.learning_rate,
            replay=ReplayFacts(
                int(self._replay.ring.filled.sum()),
                self._replay.age,
                self._config.replay.batch_size,
                self._config.env.num_envs,
            ),
        )
        self._learner.statistics = LearnerStatistics()
        self._tell("record", metrics)
        self._resources.display.update(self._progress, metrics)

    def _evaluate(self) -> bool:
        """Whether it came to its end."""
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
        if result is None:
            return False
        self._last_mean = result.mean
        judged = self._evaluated(result.mean if math.isfinite(result.mean) else -math.inf)
        if self._best is None or judged.mean >= self._best.mean:
            self._best = judged
        self._write_evaluation("evaluation", result)
        self._resources.display.say(
            f"evaluation at {progress.env_steps:,} env steps: {result.mean:.1f} ± {result.std:.1f} "
            f"over {len(result.returns)} episodes"
        )
        self._save(judged)
        if self._comm.is_root:
            self._show()
        if self._config.logging.video:
            self._comm.gather(None)  # what the root's film takes is no rank's training
        self._meter.leave_out(time.perf_counter() - began)
        self._clock.restart()
        return True

    def _write_evaluation(self, section: Evaluation, result: EvaluationResult) -> None:
        metrics = {
            f"{section}/return_mean": result.mean,
            f"{section}/return_std": result.std,
            f"{section}/episodes": float(len(result.returns)),
        }
        self._tell(section, metrics)

    def _show(self) -> None:
        """What loggers draw of a network besides its numbers."""
        resources, env_steps = self._resources, self._progress.env_steps
        if self._config.logging.histograms:
            values, updated = {}, self._progress.updates > self._updates_before
            for name, parameter in self._learner.online.named_parameters():
                values[f"parameters/{name}"] = _copy(parameter.detach())
                if parameter.grad is not None and updated:
                    values[f"gradients/{name}"] = _copy(parameter.grad)
            resources.sink.histograms(env_steps, values)
        if resources.recorder is not None:
            path = resources.run_dir.videos / f"{env_steps}.gif"
            try:
                if resources.recorder.film(self._policy.values, path):
                    resources.sink.video(env_steps, path)
            except Exception as error:  # a picture is not worth a run
                resources.recorder = None
                resources.display.say(f"no more videos: {type(error).__name__}: {error}")

    def _tell(self, kind: EventKind, metrics: Metrics) -> None:
        """Write it down, and call who wants to know, on every rank."""
        seconds, progress = self._meter.seconds, self._progress
        self._resources.sink.write(progress, seconds, metrics)
        for callback in self._resources.callbacks:
            callback(
                Event(
                    kind,
                    progress.env_steps,
                    progress.updates,
                    seconds,
                    dict(metrics),
                    self._comm.rank,
                    self._comm.world_size,
                    self._resources.stop.ask,
                )
            )

    def _evaluated(self, mean: float) -> EvaluatedNetwork:
        """A copy of the online network as it is."""
        state = {k: v.clone() for k, v in self._learner.online.state_dict().items()}
        return EvaluatedNetwork(self._progress.env_steps, self._progress.updates, mean, state)

    def _save(self, judged: EvaluatedNetwork) -> None:
        if not self._comm.is_root:
            return
        try:
            self._resources.networks.save(judged)
        except (
            OSError,
            UserError,
        ) as error:  # the best one is in memory, and in the next checkpoint
            self._resources.display.say(f"this network is not saved: {error}")


def _copy(tensor: Tensor) -> np.ndarray:
    """For whoever reads it later."""
    array: np.ndarray = tensor.cpu().numpy().copy()
    return array
