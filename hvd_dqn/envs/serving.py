"""A solver rank: it makes its group's environment, and does what its learner commands.

The M ranks of a group run the environment together, as an SPMD program: each makes it, with the
communicator of the M ranks as `comm`, and each is given the same seeds and actions. The learner
receives what it returns on rank 0 of the group; on the others it may return other observations.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.signals import leave_stopping_to_others
from hvd_dqn.config import EnvConfig
from hvd_dqn.distributed.solvers import SolverRank
from hvd_dqn.envs.interface import (
    RAISED,
    Place,
    close_env,
    require_shape,
    reset_env,
    step_env,
    told,
)
from hvd_dqn.envs.make import family_of
from hvd_dqn.envs.saving import can_save, load_env, pack_files, save_env, unpack_files
from hvd_dqn.spaces.description import describe

Answer = tuple[list[Any], Any]
"""Facts for the learner, as JSON, and the bytes of an observation."""
_DONE: Answer = [], b""


def serve(rank: SolverRank) -> None:
    """Do what the learner commands until it ends. Signals that ask for a stop are the learner's."""
    leave_stopping_to_others()
    obey(rank)


def obey(rank: SolverRank) -> None:
    """Do what the learner commands until it says that this is all."""
    served = _Served(rank)
    while True:
        (number, command, *arguments), sent = rank.receive()
        if command == "end":
            served.close()
            rank.reply([number, "done"])
            rank.flush()
            return
        try:
            arguments += [sent] if command == "load" else []
            facts, payload = getattr(served, command)(*arguments)
        except RAISED as error:
            is_user_error = isinstance(error, UserError)
            trace = traceback.format_exc()
            rank.reply([number, "failed", told(error), trace, is_user_error])
        else:
            rank.reply([number, "done", *facts], payload)


class _Served:
    """The environment of this rank's group; each command of the learner is a method."""

    def __init__(self, rank: SolverRank) -> None:
        self._rank = rank
        self._env: gym.Env[Any, Any] | None = None
        self._place = ""

    def make(self, settings: dict[str, Any], place: list[int]) -> Answer:
        """Make the environment, after closing an earlier one."""
        self.close()
        wrappers = tuple(settings["wrappers"])  # JSON has lists only
        config, where = EnvConfig(**settings | {"wrappers": wrappers}), Place(*place)
        self._place = str(where)
        env = self._env = _make(config, where, self._rank)
        if not self._rank.is_root:
            return _DONE
        meanings = getattr(env.unwrapped, "get_action_meanings", None)
        names = [] if meanings is None else [str(name).lower() for name in meanings()]
        actions, observations = env.action_space, env.observation_space
        assert isinstance(actions, gym.spaces.Discrete)
        assert isinstance(observations, gym.spaces.Box)
        declared = {
            "action": describe(actions),
            "observation": describe(observations),
            "limits_itself": env.spec is not None and env.spec.max_episode_steps is not None,
            "names": names if len(names) == actions.n else None,
            "saves": can_save(env),
        }
        return [declared], b""

    def reset(self, seed: int) -> Answer:
        """Start an episode."""
        env = self._made()
        if self._rank.is_root:
            return [], self._bytes(reset_env(env, seed))
        env.reset(seed=seed)
        return _DONE

    def step(self, action: int) -> Answer:
        """Take a step."""
        env, chosen = self._made(), np.int64(action)
        if self._rank.is_root:
            obs, *outcome = step_env(env, chosen)
            return outcome, self._bytes(obs)
        env.step(chosen)
        return _DONE

    def save(self) -> Answer:
        """Return the files of this rank's state."""
        return pack_files(save_env(self._made()))

    def load(self, steps: int, table: list[Any], files: Any) -> Answer:
        """Restore this rank's state from its files."""
        load_env(self._made(), unpack_files(table, files), steps)
        return _DONE

    def close(self) -> Answer:
        """Close the environment, if there is one."""
        if self._env is not None:
            close_env(self._env, self._place)
            self._env = None
        return _DONE

    def _made(self) -> gym.Env[Any, Any]:
        assert self._env is not None, "make comes first"
        return self._env

    def _bytes(self, obs: Any) -> bytes:
        space = self._made().observation_space
        assert isinstance(space, gym.spaces.Box)
        require_shape(obs, space)
        return np.asarray(obs, dtype=space.dtype).tobytes()


def _make(config: EnvConfig, place: Place, rank: SolverRank) -> gym.Env[Any, Any]:
    """Return this rank's part of the environment. Observations are checked on rank 0."""
    if not rank.is_root:
        config = dataclasses.replace(config, check_observations=0)
    family = family_of(config)
    try:
        return family.make_copy(config, place, comm=rank.communicator())
    except UserError as error:
        if "unexpected keyword argument 'comm'" not in str(error):
            raise
        if config.ranks_per_env > 1:
            raise UserError(
                f"{error}: with env.ranks-per-env, it receives the communicator of its ranks",
                "give it an argument comm",
            ) from error
    return family.make_copy(config, place)  # an ordinary environment on a rank of its own
