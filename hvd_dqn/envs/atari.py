"""The family of Atari: games in ALE's C++ vector environment, with one of two published protocols.

Behaviour of ale-py 0.12, as measured, and its consequences here:

- A reset with a seed per copy reloads the ROM and seeds both the sticky actions and the number of
  no-ops, so an episode does not depend on earlier ones. Reloading takes about 85 ms of one core (it
  builds an unused blended palette), as long as 280 steps.
- Its vector environment cannot disable autoreset, but does not reset a copy again that was reset
  by mask after its end.
- At its own frame limit it stops before it processes the last frame, so the observation is not the
  final one. Therefore that limit is never reached; `VectorEnvironment` truncates.
- At the end of a game it repeats the previous frame; nothing bootstraps from that frame.
- `life_loss_info` sets `terminated` for a lost life. Lives are compared here instead, to
  distinguish a lost life from the end of a game.
- It presses FIRE after a reset and clips rewards by default; neither protocol does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np

from hvd_dqn.common.errors import UserError, one_line
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs.family import Family, Made
from hvd_dqn.envs.infos import array_of
from hvd_dqn.envs.interface import Place
from hvd_dqn.envs.simulators import SimulatorStep


class AtariProtocol(NamedTuple):
    """The randomness of a game, and what ends an episode for the learner.

    `noop_max` is that of ALE: it draws 0 … noop_max − 1 no-ops, of one frame each.
    """

    repeat_action_probability: float
    noop_max: int
    life_loss_terminates: bool


PROTOCOLS = {
    # Machado et al. 2018, "Revisiting the Arcade Learning Environment", as in Dopamine: sticky
    # actions (drawn for each frame), whole games.
    "machado2018": AtariProtocol(0.25, 0, False),
    # Mnih et al. 2015, "Human-level control through deep reinforcement learning": up to 30 no-ops,
    # a lost life is terminal for the learner while the game continues.
    "mnih2015": AtariProtocol(0.0, 31, True),
}
"""Both use the minimal action set, as Mnih et al. and Dopamine (Machado et al. recommend all 18
actions: `env.kwargs` {"full_action_space": true}); 84×84 grey frames, each the maximum of the last
two of an env step; games of at most 108,000 frames.
"""

_MAX_FRAMES = 108_000
_OUT_OF_REACH = 2**30
_ADJUSTABLE = (
    "full_action_space",
    "grayscale",
    "img_height",
    "img_width",
    "max_num_frames_per_episode",
    "maxpool",
    "repeat_action_probability",
    "use_fire_reset",
)


class AtariSimulators:
    """Copies of one game that ALE steps in its own threads."""

    lets_others_run = True
    seeds_episodes = True

    def __init__(
        self,
        game: str,
        *,
        num_envs: int,
        frame_skip: int,
        protocol: AtariProtocol,
        threads: int,
        info_keys: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        from ale_py.vector_env import AtariVectorEnv

        envs = AtariVectorEnv(
            game,
            num_envs,
            num_threads=min(threads, num_envs),
            frameskip=frame_skip,
            stack_num=1,
            noop_max=protocol.noop_max,
            max_num_frames_per_episode=_OUT_OF_REACH,
            reward_clipping=False,
            **{
                "repeat_action_probability": protocol.repeat_action_probability,
                "use_fire_reset": False,
                **kwargs,
            },
        )
        self._envs = cast(Any, envs)
        self._game = game
        self._info_keys = info_keys
        self._life_loss_terminates = protocol.life_loss_terminates
        self._lives = np.zeros(num_envs, dtype=np.int32)
        self.num_envs = num_envs
        self.action_space: gym.spaces.Discrete = self._envs.single_action_space
        self._num_actions = int(self.action_space.n)
        frame_shape = self._envs.single_observation_space.shape[1:]
        self.raw_space: gym.spaces.Box = gym.spaces.Box(0, 255, frame_shape, np.uint8)

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`. Takes about 85 ms per chosen copy and thread."""
        frames, info = self._envs.reset(seed=np.array(seeds), options={"reset_mask": chosen})
        self._lives = info["lives"]
        self._frame = frames[0, 0]
        return np.asarray(frames)[:, 0]

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`. Raises `ValueError` for other actions, for which ALE would hang."""
        if not ((action >= 0) & (action < self._num_actions)).all():
            raise ValueError(f"actions {action} are not all in 0 … {self._num_actions - 1}")
        frames, reward, over, _, info = self._envs.step(action)
        # Some games have no life left for a few frames before they end (Qbert): that is one end of
        # an episode, not two.
        life_lost = (info["lives"] < self._lives) & (info["lives"] > 0)
        self._lives = info["lives"]
        self._frame = frames[0, 0]
        terminated = over | life_lost if self._life_loss_terminates else over.copy()
        infos = array_of(info, self._info_keys, self.num_envs)
        return SimulatorStep(frames[:, 0], reward, terminated, np.zeros_like(over), over, infos)

    def picture(self) -> np.ndarray:
        """See `Simulators`. Returns the frame that the policy observes, in grey or in colour."""
        frame = np.asarray(self._frame)
        return np.repeat(frame[:, :, None], 3, axis=2) if frame.ndim == 2 else frame

    def action_names(self) -> list[str]:
        """See `Simulators`."""
        from ale_py import ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        emulator = ALEInterface()
        rom = roms.get_rom_path(self._game)
        assert rom is not None, "the game is running"
        emulator.loadROM(rom)
        full = self._num_actions == len(emulator.getLegalActionSet())
        actions = emulator.getLegalActionSet() if full else emulator.getMinimalActionSet()
        return [action.name.lower() for action in actions]

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`."""
        self._envs.close()
        self._envs = None  # its threads end with it


class SingleAtari(Family):
    """Games with the user's own wrappers, or with options that ALE's vector environment lacks:
    Gymnasium's environments of ale-py.
    """

    package = "ale-py"
    module = "ale_py"
    extra = "atari"

    def claims(self, config: EnvConfig) -> bool:
        """See `Family`."""
        return config.has_atari_id


class Atari(Family):
    """ALE's ids, `ALE/Name-v5`, which its own vector environment plays."""

    package = "ale-py"
    module = "ale_py"
    extra = "atari"
    channels = "last"

    def claims(self, config: EnvConfig) -> bool:
        """See `Family`."""
        return config.is_atari

    def make_simulators(
        self,
        config: EnvConfig,
        places: Sequence[Place],
        *,
        threads: int,
        pictures: bool,
        info_keys: Sequence[str] = (),
    ) -> Made:
        """See `Family`. The limit is 108,000 frames or that of the caller, whichever is lower."""
        self.register(config.id)
        try:
            game = gym.spec(config.id.removeprefix("ale_py:")).kwargs["game"]
        except gym.error.Error as error:
            raise UserError(f"env.id {config.id!r}: {one_line(error)}") from error
        kwargs = json.loads(config.kwargs)
        max_frames = _check_kwargs(kwargs)
        steps = -(-max_frames // config.frames_per_env_step)
        try:
            simulators = AtariSimulators(
                game,
                num_envs=len(places),
                frame_skip=config.frames_per_env_step,
                protocol=PROTOCOLS[config.atari_protocol or "machado2018"],
                threads=threads,
                info_keys=info_keys,
                **kwargs,
            )
        except Exception as error:  # of nanobind's message the first line is enough
            raise UserError(
                f"env.id {config.id!r} cannot be made with env.kwargs {config.kwargs}: "
                f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        return Made(simulators, lambda most: steps if most is None else min(steps, most))


def _check_kwargs(kwargs: dict[str, Any]) -> int:
    """Remove the limit of frames from `kwargs` and return it. Raises `UserError` for other
    arguments than those that can be set.
    """
    for name in kwargs:
        if name not in _ADJUSTABLE:
            raise UserError(
                f"env.kwargs has {name!r}, which cannot be set for Atari: choose "
                "env.atari_protocol, env.frame_skip and env.frame_stack, or give one of "
                f"{', '.join(_ADJUSTABLE)}"
            )
    max_frames = kwargs.pop("max_num_frames_per_episode", _MAX_FRAMES)
    if not isinstance(max_frames, int) or max_frames <= 0:
        raise UserError(
            f"env.kwargs has max_num_frames_per_episode = {max_frames!r}: it must be an integer "
            "greater than 0"
        )
    return max_frames
