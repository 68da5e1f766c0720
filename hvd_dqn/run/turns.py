"""How ranks take turns: all together, or each by itself until the next rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hvd_dqn.common.structs import Progress
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.one_sided import Counter
from hvd_dqn.learner import Learner, ParameterServerLearner
from hvd_dqn.replay import Experience
from hvd_dqn.run.pace import Pace

_CLOSED = 2**62
"""Added to the env steps, it ends the budget until the next rest."""


class Turns(Protocol):
    """Decides how many iterations follow each other before ranks meet for records, evaluations and
    checkpoints.
    """

    def take(self, iterate: Callable[[], None]) -> int:
        """Call `iterate` as often as due; it advances `Progress`, which is afterwards equal on all
        ranks. Returns the env steps taken, over all ranks. Collective.
        """
        ...

    def may_update(self, experience: Experience) -> bool:
        """Return whether this rank can sample, once updates have started over all ranks."""
        ...

    def is_stopping(self, asked: bool) -> bool:
        """Return whether any rank was asked to stop; the same on all ranks. Collective."""
        ...


class Together:
    """Every rank takes one iteration at a time."""

    def __init__(
        self,
        progress: Progress,
        pace: Pace,
        communicator: Communicator,
        learner: Learner,
    ) -> None:
        self._progress = progress
        self._pace = pace
        self._comm = communicator
        self._learner = learner

    def take(self, iterate: Callable[[], None]) -> int:
        """See `Turns`."""
        iterate()
        return self._pace.env_steps_per_iteration

    def may_update(self, experience: Experience) -> bool:
        """See `Turns`. All ranks have taken equally many steps."""
        return True

    def is_stopping(self, asked: bool) -> bool:
        """See `Turns`. Once updates have started, the request travels in their sums."""
        if self._progress.env_steps < self._pace.updates_start_env_steps:
            return any(self._comm.gather(asked))
        return self._learner.stop_agreed


class Apart:
    """Each rank iterates by itself until the ranks together reach the next record, evaluation or
    checkpoint: a rest.

    Every iteration first claims its env steps from a counter that all ranks share, so the budget is
    spent exactly, in whole iterations, whichever rank takes them. A rank that was asked to stop, or
    whose numbers are not finite, closes the counter, and all ranks come to rest after the iteration
    that they are in.
    """

    def __init__(
        self,
        progress: Progress,
        pace: Pace,
        communicator: Communicator,
        learner: ParameterServerLearner,
        *,
        periods: Sequence[int],
        must_stop: Callable[[], bool],
    ) -> None:
        """`periods`: env steps between records, evaluations and checkpoints."""
        self._progress = progress
        self._pace = pace
        self._comm = communicator
        self._learner = learner
        self._periods = periods
        self._must_stop = must_stop

    def take(self, iterate: Callable[[], None]) -> int:
        """See `Turns`. Raises `NonFiniteError` on all ranks, at rest."""
        memory, progress = self._learner.memory, self._progress
        start, taken = progress.env_steps, 0
        claim = self._pace.env_steps_per_iteration
        end = next_rest(start, self._pace.total_env_steps, self._periods)
        if self._comm.is_root:
            memory.store(Counter.ENV_STEPS, start)
        self._comm.gather(None)
        while not self._must_rest():
            progress.env_steps = memory.add(Counter.ENV_STEPS, claim)
            if progress.env_steps >= end:
                break
            iterate()
            taken += claim
        else:
            memory.add(Counter.ENV_STEPS, _CLOSED)
        progress.env_steps = start + sum(self._comm.gather(taken))
        self._learner.rest()
        progress.updates = self._learner.updates
        return progress.env_steps - start

    def may_update(self, experience: Experience) -> bool:
        """See `Turns`. The others may have taken most of the steps."""
        return experience.has_complete_window

    def is_stopping(self, asked: bool) -> bool:
        """See `Turns`."""
        return any(self._comm.gather(asked))

    def _must_rest(self) -> bool:
        return self._must_stop() or self._learner.failure is not None


def next_rest(env_steps: int, total: int, periods: Sequence[int]) -> int:
    """Return the first env step after `env_steps` at which a period or the run ends."""
    return min(total, *((env_steps // period + 1) * period for period in periods))


def make_turns(
    config: Config,
    progress: Progress,
    pace: Pace,
    communicator: Communicator,
    learner: Learner,
    must_stop: Callable[[], bool],
) -> Turns:
    """Make the turns for `learner`. `must_stop` says whether this rank was asked to stop."""
    if not isinstance(learner, ParameterServerLearner):
        return Together(progress, pace, communicator, learner)
    periods = (
        config.logging.period_env_steps,
        config.evaluation.period_env_steps,
        config.checkpoint_period_env_steps,
    )
    return Apart(progress, pace, communicator, learner, periods=periods, must_stop=must_stop)
