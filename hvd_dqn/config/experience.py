"""Settings of experience: environments, exploration, replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config.section import Section, fraction, non_negative, positive, ranged


@dataclass(frozen=True, kw_only=True)
class EnvConfig(Section):
    """The environments of every rank."""

    prefix = "env."

    id: str = "CartPole-v1"
    """Gymnasium id; `module:Name-v0` imports `module` first. `module:function` calls your function
    with `kwargs`; it returns a `gymnasium.Env`.
    """
    num_envs: int = positive(8)
    """Environments per rank, stepped together."""
    vectorization: Literal["sync", "async"] = "sync"
    """`sync` steps the environments in this process, `async` each in its own (spawned) process."""
    overlap_updates: bool = False
    """Take the last step of an iteration while its updates are computed, which then sample from the
    replay without that step. Atari and `async` environments step in a thread, others while the
    gradients of the ranks are summed.
    """
    overlap_acting: bool = False
    """With `overlap_updates`: choose actions with the network from before the last iteration's
    updates, so that acting does not wait for them; on a GPU, acting uses its own stream.
    """
    restarts: int = non_negative(0)
    """How often a rank may recreate its environments after one of them raised an exception."""
    ranks_per_env: int = non_negative(0)
    """MPI ranks of each environment, M, for simulators that are MPI programs. 0: environments run
    on the ranks that learn. Otherwise a job of L·(1 + num-envs·M) ranks has L that learn, each
    followed by M solver ranks for each of its environments. Your class receives the communicator of
    its M ranks as `comm`, and all of them call it together.
    """
    step_seconds: float = non_negative(60.0)
    """With `ranks-per-env`: abort the job if an environment takes longer for a step, or ten times
    as long for a reset or its construction; 0: no limit.
    """
    kwargs: str = "{}"
    """Keyword arguments of the environment, as a JSON object. A list of integers, such as a shape,
    is passed as a tuple. In strings, `{rank}` is this rank, `{copy}` the number of the environment
    on it (`num-envs` that train, as many that evaluate, one for videos) and `{index}` one number
    for both; a string that is only a placeholder becomes an integer. `render_mode` applies except
    to videos; `max_episode_steps` limits the episodes of a registered id.
    """
    check_observations: int = non_negative(100)
    """How many observations of each copy are checked, of resets and steps: values that the
    environment's `observation_space` or float32 cannot hold are refused. 0 checks none.
    """
    channels: Literal["auto", "first", "last"] = "auto"
    """Axis of an image's channels, among three: `first` or `last`; `auto`: by the shape, and an
    ambiguous one is refused.
    """
    frame_stack: int = positive(1)
    """Number of stacked frames; zero-padded at the start of an episode."""
    reward_clip: float | None = positive(None)
    """Clip the rewards of the learner to ± this; reported returns are not clipped. `None` does not
    clip.
    """
    atari_protocol: Literal["machado2018", "mnih2015"] | None = None
    """Atari only: `machado2018`, sticky actions and whole games (Machado et al. 2018, Dopamine);
    `mnih2015`, up to 30 no-ops and a terminal state for the learner at each lost life (Mnih et al.
    2015). `None`: machado2018.
    """
    frame_skip: int | None = positive(None)
    """Atari only: frames for which an action is repeated; `None`: 4."""

    @property
    def is_atari(self) -> bool:
        """Whether this id is played by ALE's vector environment."""
        return self.id.removeprefix("ale_py:").startswith("ALE/")

    @property
    def frames_per_env_step(self) -> int:
        """Frames that one env step counts for in reports."""
        if not self.is_atari:
            return 1
        return 4 if self.frame_skip is None else self.frame_skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap_acting and not self.overlap_updates:
            self.refuse(
                "overlap_acting", True, "requires env.overlap_updates; set it to True as well"
            )
        for name in ("atari_protocol", "frame_skip"):
            value = getattr(self, name)
            if value is not None and not self.is_atari:
                self.refuse(name, value, f"{self.id!r} is not an Atari game (ALE/…); leave it None")
        if self.is_atari and self.vectorization == "async":
            self.refuse(
                "vectorization", "async", "ALE steps Atari games in its own threads; leave it sync"
            )
        if self.ranks_per_env and (self.is_atari or self.vectorization == "async"):
            reason = (
                "ALE steps Atari games in threads of the ranks that learn"
                if self.is_atari
                else "these environments run on ranks of their own; leave env.vectorization sync"
            )
            self.refuse("ranks_per_env", self.ranks_per_env, reason)
        try:
            if not isinstance(json.loads(self.kwargs), dict):
                self.refuse(
                    "kwargs", self.kwargs, 'must be a JSON object such as {"continuous": false}'
                )
        except json.JSONDecodeError as error:
            self.refuse("kwargs", self.kwargs, f"is not JSON ({error.msg} at column {error.colno})")


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig(Section):
    """How the actor explores."""

    prefix = "exploration."

    kind: str = "annealed"
    """ε-greedy: `annealed`, one ε with a linear decay; `ladder`, a constant ε for each environment,
    0.4^(1 + 7·i/(N − 1)) for the i-th of N over all ranks (Horgan et al. 2018). `module:function`
    names your own: it returns a `hvd_dqn.acting.exploration.Exploration`.
    """
    epsilon_initial: float = fraction(1.0)
    """`annealed`: initial ε, the fraction of random actions."""
    epsilon_final: float = fraction(0.05)
    """`annealed`: ε after the decay."""
    epsilon_decay_env_steps: int = non_negative(10_000)
    """`annealed`: length of the linear decay, in global env steps."""
    zeta_exponent: float | None = ranged(None, lambda v: v > 1, "greater than 1")
    """εz-greedy: a random action is repeated for k steps with probability ∝ k to the power of minus
    this (2 in Dabney et al. 2021); `None`: for one step.
    """


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Section):
    """The replay buffer of each rank, and how it is sampled."""

    prefix = "replay."

    capacity: int = positive(50_000)
    """Transitions kept per rank, over all of its environments."""
    batch_size: int = positive(64)
    """Transitions per update and rank; the global batch is this times the number of ranks."""
    n_step: int = ranged(1, lambda v: 1 <= v <= 255, "between 1 and 255")
    """Number of rewards summed before the bootstrap."""
    sampling: Literal["uniform", "prioritized"] = "uniform"
    """`uniform`, or `prioritized`: in proportion to priorities (Schaul et al. 2016)."""
    priority_exponent: float = fraction(0.6)
    """Exponent of priorities, α: 0 is uniform, 1 is proportional."""
    importance_exponent_initial: float = fraction(0.4)
    """Initial exponent of importance weights, β: a prioritised sample has the weight
    (1 / (size · probability))^β, divided by the largest weight in a batch of all ranks.
    """
    importance_exponent_final: float = fraction(1.0)
    """β at the end of the run; it changes linearly."""
    storage: Literal["host", "device"] = "host"
    """Memory that holds the frames: `host`, or `device` for that of the learner's device."""
