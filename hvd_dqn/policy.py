"""A trained policy, for use outside training. Needs neither MPI nor Horovod.

policy = hvd_dqn.load_policy("runs/cartpole-…")
action = policy.act(obs)
"""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.common.files import read_bounded
from hvd_dqn.config import Config
from hvd_dqn.config.loading import load_config
from hvd_dqn.envs.frame_stack import FrameStack
from hvd_dqn.envs.spaces import space_of
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks import QNetwork
from hvd_dqn.networks.saved import NetworkDirectory, SavedNetwork, load_network
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.foreign_code import announce_network_code

_LIMIT = 16 << 20


class Policy:
    """A run's network with its frame stack and scaling.

    Observations are those of the environment: [*shape] of one environment or [N, *shape] of N. With
    a frame stack, the policy keeps the last frames, so every call must be the next step of the same
    environments. `begins`, [N] bool or one bool, marks the environments that start an episode; at
    the first call all do.
    """

    def __init__(
        self, network: QNetwork, frames: FrameStack, config: Config, saved: SavedNetwork
    ) -> None:
        self.network = network
        self.config = config
        self.saved = saved
        self._frames = frames
        self._device = next(network.parameters()).device
        self._obs: np.ndarray | None = None

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of an observation of one environment."""
        return self._frames.raw_space.shape

    def q_values(self, obs: np.ndarray, *, begins: np.ndarray | bool = False) -> np.ndarray:
        """Return action values [N, A], or [A] for one environment. Raises `ValueError` if `obs` has
        another shape.
        """
        raw = np.asarray(obs)
        single = raw.shape == self.raw_shape
        if not single and raw.shape[1:] != self.raw_shape:
            raise ValueError(
                f"observations have shape {raw.shape}: must be {self.raw_shape}, or a batch of that"
            )
        stacked = self._stacked(raw[None] if single else raw, begins)
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

    def act(self, obs: np.ndarray, *, begins: np.ndarray | bool = False) -> np.ndarray:
        """Return the greedy actions, [N] int64, or [] for one environment."""
        return np.asarray(self.q_values(obs, begins=begins).argmax(axis=-1))

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
    observation, num_actions = read_spaces(place)
    saved = NetworkDirectory(place.networks).find(network)
    announce_network_code(config, Path(run_dir))
    frames = FrameStack(observation, config.env.frame_stack)
    made = make_network(
        config.network,
        config.objective,
        obs_space=frames.obs_space,
        num_actions=num_actions,
        device=torch.device(device),
    )
    load_network(made, saved)
    made.prepare(None, learning=False)
    return Policy(made.eval(), frames, config, saved)


def read_spaces(run_dir: RunDirectory) -> tuple[gym.spaces.Box, int]:
    """Return the observation space of a run's environments, before frame stacking, and their number
    of actions. Raises `UserError` if run.json does not contain them.
    """
    try:
        facts = json.loads(read_bounded(run_dir.facts_file, _LIMIT, follow=True))
        spaces = next(
            f["spaces"] for f in (*facts.get("resumed", [])[::-1], facts) if "spaces" in f
        )
        return space_of(spaces["observation"]), int(spaces["num_actions"])
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
