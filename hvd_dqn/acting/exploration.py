"""Explorations: how the actor chooses actions that are not always the best ones.

`exploration.kind` names an entry of `EXPLORATIONS`, or the user's own function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from hvd_dqn.common.errors import ConfigError
from hvd_dqn.common.extensions import lookup
from hvd_dqn.config import ExplorationConfig
from hvd_dqn.spaces.actions import best_actions


class Values:
    """Computes the action values [N, A] of the current observations, when called; with `branches`,
    those of the choices of each dimension, [N, Σ n].
    """

    def __init__(self, compute: Callable[[], np.ndarray], branches: tuple[int, ...] = ()) -> None:
        self._compute = compute
        self._branches = branches

    def __call__(self) -> np.ndarray:
        """Return the values."""
        return self._compute()

    def best(self) -> np.ndarray:
        """Return the actions [N] with the highest values."""
        return best_actions(self._compute(), self._branches)


class Slots(NamedTuple):
    """The environments of one rank: `num_envs` of the `total_envs` over all ranks, from number
    `first` on.
    """

    first: int
    num_envs: int
    total_envs: int


class Exploration(ABC):
    """Chooses the actions of N environments. A subclass defines `choose`; if it keeps state between
    steps, such as a random stream, also the methods that save and restore it.
    """

    @abstractmethod
    def choose(self, env_steps: int, values: Values, legal: np.ndarray | None = None) -> np.ndarray:
        """Return actions [N], integers in 0 … num_actions − 1, after `env_steps` global env steps.
        `values` is a function: calling it costs a forward pass. `legal` [N, A] bool are the legal
        actions, `None` if all are; the values of others are −∞.
        """

    def mean_epsilon(self, env_steps: int) -> float:
        """Return ε, averaged over the environments of all ranks, for the metrics; NaN if this
        exploration has no ε.
        """
        return float("nan")

    def end_episodes(self, ended: np.ndarray) -> None:  # noqa: B027  # optional
        """Forget what belongs to the episodes that ended, [N] bool."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: tensors and JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # optional
        """Restore the state that `state_dict` returned."""

    def load_random_stream(self, state: dict[str, Any]) -> None:  # noqa: B027  # optional
        """Restore only the random stream: the run resumes on another number of ranks, with other
        episodes.
        """


class EpsilonGreedy(Exploration):
    """ε-greedy; with a zeta exponent εz-greedy, which repeats each random action for a random
    number of steps (Dabney, Ostrovski, Barreto 2021, "Temporally-Extended ε-Greedy Exploration").
    """

    def __init__(
        self,
        schedule: Callable[[int, Slots], np.ndarray],
        slots: Slots,
        *,
        num_actions: int,
        zeta_exponent: float | None,
        rng: np.random.Generator,
    ) -> None:
        """`schedule` returns the ε of each of `slots`, [num_envs], after a number of global env
        steps.
        """
        self._schedule = schedule
        self._slots = slots
        self._num_actions = num_actions
        self._zeta_exponent = zeta_exponent
        self._rng = rng
        self._action: np.ndarray = np.zeros(slots.num_envs, dtype=np.int64)
        self._remaining: np.ndarray = np.zeros(slots.num_envs, dtype=np.int64)

    def choose(self, env_steps: int, values: Values, legal: np.ndarray | None = None) -> np.ndarray:
        """See `Exploration`; `values` is not called if all environments explore."""
        epsilon = self._schedule(env_steps, self._slots)
        if self._zeta_exponent is None:
            return epsilon_greedy(epsilon, self._num_actions, values, self._rng, legal=legal)
        start = self._rng.random(len(epsilon)) < epsilon
        exploring = self._repeating(start, self._zeta_exponent, legal)
        return _mixed(exploring, self._action, values)

    def _repeating(
        self, start: np.ndarray, zeta_exponent: float, legal: np.ndarray | None
    ) -> np.ndarray:
        """Begin random actions in the environments `start` [N] that repeat none, and return which
        ones explore in this step, [N]. An action is not repeated once it is illegal.
        """
        if legal is not None:
            self._remaining[~legal[np.arange(len(legal)), self._action]] = 0
        start &= self._remaining == 0
        if np.count_nonzero(start):
            drawn = _random_actions(self._num_actions, len(self._action), legal, self._rng)
            durations = self._rng.zipf(zeta_exponent, size=len(self._action))
            self._action = np.where(start, drawn, self._action)
            self._remaining = np.where(start, durations, self._remaining)
        exploring: np.ndarray = self._remaining > 0
        self._remaining -= exploring
        return exploring

    def mean_epsilon(self, env_steps: int) -> float:
        """See `Exploration`."""
        total = self._slots.total_envs
        return float(self._schedule(env_steps, Slots(0, total, total)).mean())

    def end_episodes(self, ended: np.ndarray) -> None:
        """End the random actions that are repeated in these episodes."""
        self._remaining[ended] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the repeated actions and the state of the random stream."""
        return {
            "action": torch.from_numpy(self._action.copy()),
            "remaining": torch.from_numpy(self._remaining.copy()),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Exploration`."""
        self._action = state["action"].numpy().copy()
        self._remaining = state["remaining"].numpy().copy()
        self.load_random_stream(state)

    def load_random_stream(self, state: dict[str, Any]) -> None:
        """See `Exploration`."""
        self._rng.bit_generator.state = state["rng"]


def as_actions(
    chosen: Any, num_envs: int, num_actions: int, legal: np.ndarray | None = None
) -> np.ndarray:
    """Return what an exploration of the user's chose as actions [N] int64.

    Raises `ValueError` if it is not N integers in 0 … num_actions − 1, or if one is not `legal`
    [N, A].
    """
    action = np.asarray(chosen)
    whole = action.dtype.kind in "iu" and action.shape == (num_envs,)
    if not whole or not ((action >= 0) & (action < num_actions)).all():
        raise ValueError(
            f"exploration.kind: it chose {action.dtype} {list(action.shape)} actions "
            f"{np.array2string(action.reshape(-1), threshold=8)}; it must choose {num_envs} "
            f"integers in 0 … {num_actions - 1}, one per environment"
        )
    if legal is not None and not legal[np.arange(num_envs), action].all():
        raise ValueError("exploration.kind: it chose an action that is illegal in this state")
    return action.astype(np.int64, copy=False)


def epsilon_greedy(
    epsilon: np.ndarray,
    num_actions: int,
    values: Values,
    rng: np.random.Generator,
    *,
    legal: np.ndarray | None = None,
    draws_always: bool = False,
) -> np.ndarray:
    """Return actions [N], each random with probability `epsilon` [N], else the best by `values`.
    Random ones are among the `legal` [N, A], if these are given.

    Random actions are drawn only in steps in which some environment explores, or, with
    `draws_always`, in every step (the random stream of `hvd-dqn evaluate`).
    """
    exploring = rng.random(len(epsilon)) < epsilon
    if not draws_always and not np.count_nonzero(exploring):
        return values.best()
    return _mixed(exploring, _random_actions(num_actions, len(epsilon), legal, rng), values)


def _random_actions(
    num_actions: int, num_envs: int, legal: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Return uniformly random actions [N]; if `legal` [N, A] is given, among the legal ones."""
    if legal is None:
        return rng.integers(num_actions, size=num_envs)
    number = (rng.random(num_envs) * legal.sum(axis=1)).astype(np.int64)  # among the legal ones
    action: np.ndarray = (legal.cumsum(axis=1) > number[:, None]).argmax(axis=1)
    return action


def _mixed(exploring: np.ndarray, drawn: np.ndarray, values: Values) -> np.ndarray:
    """Return the actions `drawn` [N] of environments that explore [N], and the best of others."""
    count = np.count_nonzero(exploring)
    if count == 0:
        return values.best()
    if count == len(exploring):
        return drawn
    action: np.ndarray = np.where(exploring, drawn, values.best())
    return action


def annealed(
    config: ExplorationConfig, slots: Slots, num_actions: int, rng: np.random.Generator
) -> Exploration:
    """Return ε-greedy with one ε, which changes linearly from `epsilon_initial` to
    `epsilon_final`.
    """

    def schedule(env_steps: int, slots: Slots) -> np.ndarray:
        decay = config.epsilon_decay_env_steps
        share = min(env_steps / decay, 1.0) if decay else 1.0
        initial, final = config.epsilon_initial, config.epsilon_final
        return np.full(slots.num_envs, initial + (final - initial) * share)

    return EpsilonGreedy(
        schedule, slots, num_actions=num_actions, zeta_exponent=config.zeta_exponent, rng=rng
    )


def ladder(
    config: ExplorationConfig, slots: Slots, num_actions: int, rng: np.random.Generator
) -> Exploration:
    """Return ε-greedy with a constant ε for each environment (Horgan et al. 2018, section 4)."""

    def schedule(env_steps: int, slots: Slots) -> np.ndarray:
        place = np.arange(slots.first, slots.first + slots.num_envs) / max(slots.total_envs - 1, 1)
        epsilon: np.ndarray = 0.4 ** (1 + 7 * place)
        return epsilon

    return EpsilonGreedy(
        schedule, slots, num_actions=num_actions, zeta_exponent=config.zeta_exponent, rng=rng
    )


EXPLORATIONS: dict[str, Callable[..., Exploration]] = {"annealed": annealed, "ladder": ladder}
"""A new exploration is one function like these, and one entry here."""


def make_exploration(
    config: ExplorationConfig, slots: Slots, *, num_actions: int, rng: np.random.Generator
) -> Exploration:
    """Return the exploration that `exploration.kind` names: one of `EXPLORATIONS`, or the user's
    `module:function`, called like these.

    Raises `ConfigError` if there is none.
    """
    make = lookup("exploration.kind", config.kind, EXPLORATIONS)
    exploration: object = make(config, slots, num_actions, rng)
    if not isinstance(exploration, Exploration):
        raise ConfigError(
            f"exploration.kind = {config.kind!r}: must return a "
            f"hvd_dqn.acting.exploration.Exploration, and returns {type(exploration).__name__}"
        )
    return exploration
