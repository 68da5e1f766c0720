"""A trained policy for whoever wants to use it: torch and NumPy, without MPI, Horovod or a replay.

policy = hvd_dqn.load_policy("runs/cartpole-…")
action = policy.act(obs)
"""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import read_bounded
from hvd_dqn.config import Config
from hvd_dqn.config.loading import load_config
from hvd_dqn.envs.frame_stack import FrameStack
from hvd_dqn.envs.spaces import space_of
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks import QNetwork
from hvd_dqn.networks.saved import NetworkDirectory, SavedNetwork, load_network
from hvd_dqn.run.directory import RunDirectory

_LIMIT = 16 << 20


class Policy:
    """A run's network and what stands before it: an episode's newest frames, stacked and scaled.

    Observations are the environment's own, of one environment [*shape] or of N, [N, *shape]. Where
    frames are stacked, a policy remembers them: each call is the next step of the same
    environments, but for those where an episode `begins`, [N] bool or one for all; at the first
    call all do.
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
        """Of an observation."""
        return self._frames.raw_space.shape

    def q_values(self, obs: np.ndarray, *, begins: np.ndarray | bool = False) -> np.ndarray:
        """Action values [N, A], or [A] for one environment. `ValueError` for another shape."""
        raw = np.asarray(obs)
        single = raw.shape == self.raw_shape
        if not single and raw.shape[1:] != self.raw_shape:
            raise ValueError(
                f"observations of shape {raw.shape} are neither {self.raw_shape} nor a batch of it"
            )
        stacked = self._stacked(raw[None] if single else raw, begins)
        values = self.values_of(stacked)
        chosen: np.ndarray = values[0] if single else values
        return chosen

    @torch.no_grad()
    def values_of(self, stacked: np.ndarray) -> np.ndarray:
        """Action values [N, A] of observations that are stacked already, [N, K·C, …]; nothing is
        remembered.
        """
        obs = torch.from_numpy(stacked).to(self._device)
        values: np.ndarray = self.network(obs).cpu().numpy()
        return values

    def act(self, obs: np.ndarray, *, begins: np.ndarray | bool = False) -> np.ndarray:
        """The actions of the highest value, [N] int64, or one of shape []."""
        return np.asarray(self.q_values(obs, begins=begins).argmax(axis=-1))

    def _stacked(self, raw: np.ndarray, begins: np.ndarray | bool) -> np.ndarray:
        """What the network is given: [N, K·C, …]."""
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
    """The policy of a run: its `best` network by evaluation, its `newest`, or that of so many env
    steps. Raises `UserError` with reason and remedy where the directory holds none.
    """
    place = RunDirectory(Path(run_dir))
    place.require_run()
    config = load_config(place.config_file)
    observation, num_actions = read_spaces(place)
    saved = NetworkDirectory(place.networks).find(network)
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
    """What the run's environments observe, before frames are stacked, and how many actions they
    take. `UserError` where its facts do not say so.
    """
    try:
        facts = json.loads(read_bounded(run_dir.facts_file, _LIMIT))
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
            f"{run_dir.facts_file} does not say what the run's environments observe "
            f"({type(error).__name__}: {error})",
            "it is damaged, or the run was made before hvd_dqn wrote it: train it anew",
        ) from error
