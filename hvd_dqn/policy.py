"""A trained policy, for use outside training. Needs neither MPI nor Horovod.

policy = hvd_dqn.load_policy("runs/cartpole-…")  # or "zoo:cartpole"
action = policy.act(obs)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from hvd_dqn.config import Config
from hvd_dqn.config.loading import load_config
from hvd_dqn.envs.frame_stack import FrameStack
from hvd_dqn.envs.observations import find_lost_value
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks import QNetwork
from hvd_dqn.networks.saved import NetworkDirectory, SavedNetwork, load_network
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.foreign_code import announce_network_code
from hvd_dqn.run.spaces import read_spaces
from hvd_dqn.spaces.actions import ActionCodes, best_actions, branches_of
from hvd_dqn.spaces.records import MASK, RecordSpace


class Policy:
    """A run's network with its frame stack and scaling.

    Actions are values of `action_space`, as the environment takes them; action values are in the
    order of these.

    Observations are those of the environment: [*shape] of one environment or [N, *shape] of N; if
    they are not one array, an observation as the environment returns it, or a list of N. If actions
    are masked and the mask is not a field of the observations, `action_mask` is the mask [A] of the
    legal actions or a list of N; without it all are. With
    a frame stack, the policy keeps the last frames, so every call must be the next step of the same
    environments. `begins`, [N] bool or one bool, marks the environments that start an episode; at
    the first call all do.
    """

    def __init__(
        self,
        network: QNetwork,
        frames: FrameStack,
        action_space: gym.spaces.Discrete,
        config: Config,
        saved: SavedNetwork,
    ) -> None:
        self.network = network
        self._actions = action_space
        self.config = config
        self.saved = saved
        self._frames = frames
        self._device = next(network.parameters()).device
        self._obs: np.ndarray | None = None

    @property
    def action_space(self) -> gym.Space[Any]:
        """The space of actions of one environment."""
        actions = self._actions
        return actions.source if isinstance(actions, ActionCodes) else actions

    @property
    def observation_space(self) -> gym.Space[Any]:
        """The space of observations of one environment."""
        space = self._frames.raw_space
        return space.source if isinstance(space, RecordSpace) else space

    @property
    def stacked_space(self) -> gym.spaces.Box:
        """The space of the network's observations [K·C, …]."""
        return self._frames.obs_space

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of an observation of one environment."""
        return self._frames.raw_space.shape

    def q_values(
        self, obs: Any, *, begins: np.ndarray | bool = False, action_mask: Any = None
    ) -> np.ndarray:
        """Return action values [N, A], or [A] for one environment; those of illegal actions are −∞.
        Raises `ValueError` if `obs` has another shape, or values that the observation space or
        float32 cannot hold.
        """
        space = self._frames.raw_space
        if isinstance(space, RecordSpace):
            raw, single = _records(space, obs, action_mask)
            return self._values(raw, single, begins)
        raw = np.asarray(obs)
        single = raw.shape == self.raw_shape
        if not single and raw.shape[1:] != self.raw_shape:
            raise ValueError(
                f"observations have shape {raw.shape}: must be {self.raw_shape}, or a batch of that"
            )
        problem = find_lost_value(raw, space)
        if problem:
            raise ValueError(f"the policy takes {space}, not {problem}")
        return self._values(raw[None] if single else raw, single, begins)

    def _values(self, raw: np.ndarray, single: bool, begins: np.ndarray | bool) -> np.ndarray:
        stacked = self._stacked(raw, begins)
        values = self.values_of(stacked)
        chosen: np.ndarray = values[0] if single else values
        return chosen

    @torch.no_grad()
    def values_of(self, stacked: np.ndarray) -> np.ndarray:
        """Return action values [N, A] of stacked observations [N, K·C, …], without using the frames
        of earlier calls.
        """
        obs = torch.from_numpy(stacked).to(self._device)
        values: np.ndarray = self.network(obs).cpu().numpy()
        return values

    def act(self, obs: Any, *, begins: np.ndarray | bool = False, action_mask: Any = None) -> Any:
        """Return the greedy actions, values of `action_space`. For a Discrete space: [N] int64, or
        one NumPy integer for one environment; for others: a list of N, or one.
        """
        values = self.q_values(obs, begins=begins, action_mask=action_mask)
        single = values.ndim == 1
        best = best_actions(np.atleast_2d(values), branches_of(self._actions))
        if isinstance(self._actions, ActionCodes):
            coded = [self._actions.action(int(code)) for code in best]
            return coded[0] if single else coded
        actions = best + np.int64(self._actions.start)
        return actions[0] if single else actions

    def _stacked(self, raw: np.ndarray, begins: np.ndarray | bool) -> np.ndarray:
        """Return the stacked observations, [N, K·C, …]."""
        first = self._frames.first(raw)
        if self._frames.length == 1:
            return first
        if self._obs is None or len(self._obs) != len(raw):
            self._obs = first
        else:
            new = np.broadcast_to(np.asarray(begins, dtype=np.bool_), len(raw))
            self._obs = self._frames.following(self._obs, raw)
            self._obs[new] = first[new]
        return self._obs


def _records(space: RecordSpace, obs: Any, action_mask: Any) -> tuple[np.ndarray, bool]:
    """Return records [N, bytes] of one observation or of a list of N, and whether it was one."""
    single = not isinstance(obs, list)
    every, masks = ([obs], [action_mask]) if single else (obs, action_mask)
    records = []
    for number, one in enumerate(every):
        problem = space.find_problem(one, find_lost_value)
        if problem:
            raise ValueError(f"the policy takes {space.source}, not {problem}")
        mask = None if masks is None else masks[number]
        if mask is None and isinstance(one, dict):
            mask = one.get(MASK)
        if mask is None:
            mask = np.ones(space.num_actions or 0, dtype=np.bool_)
        records.append(space.pack(one, mask))
    return np.stack(records), single


def load_policy(
    run_dir: str | Path,
    *,
    network: str | int = "best",
    device: str | torch.device = "cpu",
) -> Policy:
    """Load the policy of a run: its `best` network by evaluation, its `newest`, or the one saved at
    this number of env steps. Raises `UserError` if the run directory does not contain it.

    If the run's configuration names a torso or a method of another package (`module:function`),
    that module is imported, and a line on standard error says so before.
    """
    place = RunDirectory(Path(run_dir))
    place.require_run()
    config = load_config(place.config_file)
    spaces = read_spaces(place)
    config = spaces.in_config(config)
    saved = NetworkDirectory(place.networks).find(network)
    announce_network_code(config, Path(run_dir))
    frames = FrameStack(spaces.observation, config.env.frame_stack, config.env.channels)
    made = make_network(
        config.network,
        config.objective,
        obs_space=frames.obs_space,
        num_actions=int(spaces.action.n),
        branches=branches_of(spaces.action),
        device=torch.device(device),
    )
    load_network(made, saved)
    made.prepare(None, learning=False)
    return Policy(made.eval(), frames, spaces.action, config, saved)
