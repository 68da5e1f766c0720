"""One of each kind of extension, as a user's module would define them: `tests.extensions:name`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.acting.exploration import Exploration, Slots, Values
from hvd_dqn.common.structs import Batch
from hvd_dqn.config import ExplorationConfig, NetworkConfig, ObjectiveConfig
from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.methods.method import LossTerms, Method
from hvd_dqn.networks import QNetwork

calls: dict[str, int] = {}
"""How often each extension was used, by name."""


def count(name: str) -> None:
    calls[name] = calls.get(name, 0) + 1


class GaussianQNetwork(QNetwork):
    """The head's two outputs are mean and log standard deviation of the return."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return action values, [B, A]: the means."""
        return self.outputs(obs)[..., 0]


class GaussianObjective:
    """The negative log-likelihood of the one-step target."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self.floor = config.v_min

    def __call__(self, online: GaussianQNetwork, target: GaussianQNetwork, batch: Batch) -> Any:
        count("objective")
        with torch.no_grad():
            goal = batch.reward + batch.discount * target(batch.next_obs).amax(dim=1)
        rows = torch.arange(len(goal))
        mean, log_std = online.outputs(batch.obs)[rows, batch.action].unbind(dim=1)
        log_std = log_std.clamp(min=self.floor)
        loss = 0.5 * ((goal - mean) / log_std.exp()).square() + log_std
        error = (goal - mean.detach()).abs()
        return LossTerms(loss, error, mean.detach(), priority=error)


def gaussian(config: ObjectiveConfig) -> Method:
    """A method: Gaussian returns."""
    return Method(
        num_outputs=2,
        make_network=GaussianQNetwork,
        make_objective=lambda generator: GaussianObjective(config),
        loss_name="loss/gaussian",
    )


class Cosines(nn.Module):
    """Observations and their cosines."""

    def forward(self, obs: Tensor) -> Tensor:
        """[B, F] to [B, 2·F]."""
        count("torso")
        return torch.cat((obs, obs.cos()), dim=1)


def cosines(config: NetworkConfig, obs_shape: tuple[int, ...]) -> nn.Module:
    """A torso."""
    return Cosines()


class Boltzmann(Exploration):
    """Draws actions from a softmax of the action values."""

    def __init__(self, temperature: float, rng: np.random.Generator) -> None:
        self.temperature, self.rng = temperature, rng

    def choose(self, env_steps: int, values: Values, legal: np.ndarray | None = None) -> np.ndarray:
        count("exploration")
        noise = self.rng.gumbel(size=(q := values()).shape)
        return (q / self.temperature + noise).argmax(axis=1)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_random_stream(state)

    def load_random_stream(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]


def boltzmann(
    config: ExplorationConfig, slots: Slots, num_actions: int, rng: np.random.Generator
) -> Exploration:
    """An exploration."""
    return Boltzmann(0.1 + config.epsilon_final, rng)


class Aimless(Exploration):
    """An exploration that chooses nothing."""


def aimless(
    config: ExplorationConfig, slots: Slots, num_actions: int, rng: np.random.Generator
) -> Exploration:
    """An exploration that cannot be made."""
    return Aimless()  # type: ignore[abstract]


class Corridor(gym.Env[np.ndarray, np.int64]):
    """Go right until the end."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, length: int) -> None:
        self.length = length
        self.observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        count("episodes")
        self.place = 0
        return self._obs(), {}

    def step(self, action: np.int64) -> Any:
        self.place = max(0, self.place + (1 if action else -1))
        ended = self.place == self.length
        return self._obs(), float(ended), ended, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.place / self.length, 1.0], dtype=np.float32)


class RegisteredCorridor(Corridor):
    """Also has an id, with a time limit."""

    def __init__(self) -> None:
        super().__init__(3)


if "RegisteredCorridor-v0" not in gym.registry:
    gym.register("RegisteredCorridor-v0", RegisteredCorridor, max_episode_steps=7)


def corridor(length: int = 3) -> gym.Env[Any, Any]:
    """An environment."""
    return gym.wrappers.TimeLimit(Corridor(length), 20)


class Counting:
    """A communicator that counts the sums of another one."""

    backend = "counting"

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        count("sums")
        self._inner.start_sum(tensor, name, overlap=overlap)


def counting(meeting: Communicator) -> Communicator:
    """A backend."""
    return Counting(meeting)
