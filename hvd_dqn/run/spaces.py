"""The spaces of a run's environments, which `run.json` keeps for policies, evaluations and resumed
runs.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import gymnasium as gym

from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.common.files import read_bounded
from hvd_dqn.config import Config
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.spaces.description import actions_of, describe, observations_of

_LIMIT = 16 << 20


class RunSpaces(NamedTuple):
    """The spaces of one environment, before frame stacking. `channels` is the axis of three that
    holds the channels of observations, "first" or "last", or `None`. Version 0.1.0 did not write
    the start of the actions: then `knows_start` is False, and it is taken for 0.
    """

    observation: gym.spaces.Box
    action: gym.spaces.Discrete
    channels: str | None
    knows_start: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return what `run.json` contains."""
        return {
            "observation": describe(self.observation),
            "action": describe(self.action),
            "channels": self.channels,
        }

    def in_config(self, config: Config) -> Config:
        """Return the run's `config` with these channels, so that nothing guesses them again."""
        return config.changed({"env.channels": self.channels}) if self.channels else config

    def require(self, envs: VectorEnvironment) -> None:
        """Raise `UserError` if `envs` have other actions, or observations of another shape or type,
        than the run was trained with.
        """
        now = spaces_of(envs)
        actions = now.action if self.knows_start else gym.spaces.Discrete(now.action.n)
        for kind, before, after in (
            ("actions", str(self.action), str(actions)),
            ("observations", self._layout(), now._layout()),
        ):
            if before != after:
                raise UserError(
                    f"the run was trained with {kind} {before}, and the environment has {after}",
                    "use the environment and the options of that time, or train again",
                )

    def _layout(self) -> str:
        shape = f"{self.observation.shape} of {self.observation.dtype}"
        return shape + (", channels last" if self.channels == "last" else "")


def spaces_of(envs: VectorEnvironment) -> RunSpaces:
    """Return the spaces of one copy."""
    return RunSpaces(envs.raw_space, envs.action_space, envs.channels)


def read_spaces(run_dir: RunDirectory) -> RunSpaces:
    """Return the spaces of a run. Raises `UserError` if run.json does not contain them."""
    try:
        facts = json.loads(read_bounded(run_dir.facts_file, _LIMIT, follow=True))
        spaces = next(
            f["spaces"] for f in (*facts.get("resumed", [])[::-1], facts) if "spaces" in f
        )
        return _from_json(spaces)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        StopIteration,
        RecursionError,
    ) as error:
        raise UserError(
            f"{run_dir.facts_file} does not contain the run's spaces ({typed_line(error)})",
            "the file is damaged, or an older version of hvd_dqn wrote it; train again",
        ) from error


def _from_json(spaces: dict[str, Any]) -> RunSpaces:
    observation = observations_of(spaces["observation"])
    if "num_actions" in spaces:  # version 0.1.0
        actions = actions_of({"n": spaces["num_actions"], "start": 0})
        channels = _channels_of_old_runs(observation.shape)
        return RunSpaces(observation, actions, channels, knows_start=False)
    channels = spaces["channels"]
    if channels not in (None, "first", "last"):
        raise ValueError(f"channels = {channels!r}")
    return RunSpaces(observation, actions_of(spaces["action"]), channels)


def _channels_of_old_runs(shape: tuple[int, ...]) -> str | None:
    """Return the axis that version 0.1.0 took for the channels."""
    if len(shape) != 3:
        return None
    return "first" if shape[0] < shape[2] else "last"
