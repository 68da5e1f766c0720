"""Where experience comes from: environments, exploration, replay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config.section import Section, fraction, non_negative, positive, ranged


@dataclass(frozen=True, kw_only=True)
class EnvConfig(Section):
    """The environment of every rank."""

    prefix = "env."

    id: str = "CartPole-v1"
    """Gymnasium id, or `module:Name-v0` to import `module` first."""
    num_envs: int = positive(8)
    """Environments per rank, stepped together."""
    vectorization: Literal["sync", "async"] = "sync"
    """Step the environments in this process, or each in a (spawned) process of its own."""
    overlap_updates: bool = False
    """Take an iteration's last step while its updates are computed, which draw from the replay as
    it was before: in a thread where the simulators are C++ (Atari) or processes of their own, else
    while the ranks' gradients are on their way.
    """
    overlap_acting: bool = False
    """With `overlap_updates`: choose actions by the network as it was before the last iteration's
    updates, which acting then need not wait for; on a GPU it has a stream of its own.
    """
    restarts: int = non_negative(0)
    """How often a rank may make its environments anew when one of them breaks."""
    kwargs: str = "{}"
    """Keyword arguments for the environment, as a JSON object. A list of whole numbers, such as a
    shape, arrives as a tuple.
    """
    frame_stack: int = positive(1)
    """Newest frames of an episode that make an observation; before its first there are zeros."""
    reward_clip: float | None = positive(None)
    """Clip the learner's rewards to ± this; returns stay true. `None` does not clip."""
    atari_protocol: Literal["machado2018", "mnih2015"] | None = None
    """Atari only: sticky actions and whole games (Machado et al. 2018, Dopamine), or up to 30
    no-ops and a lost life as the learner's terminal (Mnih et al. 2015). `None`: machado2018.
    """
    frame_skip: int | None = positive(None)
    """Atari only: frames for which a decision is held; `None`: 4."""

    @property
    def is_atari(self) -> bool:
        """Whether ALE's own vector environment plays this id."""
        return self.id.removeprefix("ale_py:").startswith("ALE/")

    @property
    def frames_per_env_step(self) -> int:
        """What a decision counts for in reports of frames."""
        if not self.is_atari:
            return 1
        return 4 if self.frame_skip is None else self.frame_skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap_acting and not self.overlap_updates:
            self.refuse("overlap_acting", True, "is of env.overlap_updates: set that to True, too")
        for name in ("atari_protocol", "frame_skip"):
            value = getattr(self, name)
            if value is not None and not self.is_atari:
                self.refuse(name, value, f"{self.id!r} is no Atari game (ALE/…); leave it None")
        if self.is_atari and self.vectorization == "async":
            self.refuse(
                "vectorization", "async", "ALE steps Atari games in its own threads; leave it sync"
            )
        try:
            if not isinstance(json.loads(self.kwargs), dict):
                self.refuse(
                    "kwargs", self.kwargs, 'must be a JSON object such as {"continuous": false}'
                )
        except json.JSONDecodeError as error:
            self.refuse("kwargs", self.kwargs, f"is not JSON ({error.msg} at column {error.colno})")


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig(Section):
    """How often an action is random."""

    prefix = "exploration."

    kind: Literal["annealed", "ladder"] = "annealed"
    """One ε that falls over the run, or a ladder: a constant ε for each environment of all ranks,
    0.4^(1 + 7·i/(N − 1)) for the i-th of N (Horgan et al. 2018).
    """
    epsilon_initial: float = fraction(1.0)
    """Share of random actions at the start."""
    epsilon_final: float = fraction(0.05)
    """Share of random actions after the decay."""
    epsilon_decay_env_steps: int = non_negative(10_000)
    """Global env steps of the linear decay."""
    zeta_exponent: float | None = ranged(None, lambda v: v > 1, "greater than 1")
    """εz-greedy: a random action lasts k steps with probability ∝ k to minus this (2 in Dabney et
    al. 2021); `None` draws a new one every step.
    """


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Section):
    """Each rank's replay and what is drawn from it."""

    prefix = "replay."

    capacity: int = positive(50_000)
    """Transitions kept per rank, over all its environments."""
    batch_size: int = positive(64)
    """Transitions per update and rank; the global batch is this times the number of ranks."""
    n_step: int = ranged(1, lambda v: 1 <= v <= 255, "between 1 and 255")
    """Rewards summed before the bootstrap."""
    sampling: Literal["uniform", "prioritized"] = "uniform"
    """Every transition alike, or in proportion to its priority (Schaul et al. 2016)."""
    priority_exponent: float = fraction(0.6)
    """α: 0 is uniform, 1 fully proportional."""
    importance_exponent_initial: float = fraction(0.4)
    """β at the start: prioritised samples weigh (1 / (size · probability))^β, divided by the
    largest of all ranks' batches.
    """
    importance_exponent_final: float = fraction(1.0)
    """β at the end of the run, reached linearly."""
    storage: Literal["host", "device"] = "host"
    """Where frames are kept: in the host's memory, or in that of the learner's device."""
