"""Settings of experience: environments, exploration, replay."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Literal

from hvd_dqn.config import keywords
from hvd_dqn.config.keywords import Keywords
from hvd_dqn.config.section import Section, fraction, non_negative, positive, ranged

_ONLY_SINGLE = frozenset({"difficulty", "frameskip", "mode", "obs_type"})
"""Arguments of ale-py's single environments that its vector environment lacks."""


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
    vectorization: Literal["sync", "async", "vector"] = "sync"
    """`sync` steps the environments in this process, `async` each in its own (spawned) process;
    `vector` uses the id's own vector environment (Gymnasium's `vector_entry_point`), or calls
    `module:function` with `num_envs` for one.
    """
    ready_fraction: float = ranged(1.0, lambda v: 0 < v <= 1, "greater than 0 and at most 1")
    """With `async`: fraction of a rank's environments whose steps complete a step of the rank: the
    first that are ready, so that slow steps hold up only their own environments. Results depend on
    the time that steps take, so they are not reproducible, and a resumed run is not bit for bit
    that of one that was never stopped.
    """
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
    kwargs: Keywords = "{}"
    """Keyword arguments of the environment, as a JSON object; `--env.kwargs.NAME VALUE` sets one of
    them, to JSON or text. A list of integers, such as a shape, is passed as a tuple. In strings,
    `{rank}` is this rank, `{copy}` the number of the environment on it (`num-envs` that train, as
    many that evaluate, one for videos) and `{index}` one number for both; a string that is only a
    placeholder becomes an integer. `render_mode` applies except to videos; `max_episode_steps`
    limits the episodes of a registered id.
    """
    wrappers: tuple[str, ...] = ranged(
        (),
        lambda names: all(all(name.partition("=")[0].partition(":")[::2]) for name in names),
        'module:Wrapper, or module:Wrapper={"argument": value}',
    )
    """Gymnasium wrappers of each environment, the innermost first: `module:Wrapper`, or, with
    keyword arguments as JSON, `'module:Wrapper={"size": 4}'`.
    """
    check_observations: int = non_negative(100)
    """How many observations of each copy are checked, of resets and steps: values that the
    environment's `observation_space` or float32 cannot hold are refused. 0 checks none.
    """
    channels: Literal["auto", "first", "last"] = "auto"
    """Axis of an image's channels, among three: `first` or `last`; `auto`: by the shape, and an
    ambiguous one is refused.
    """
    text: Literal["drop", "tokens"] | None = None
    """Text in observations: `drop` leaves it out, `tokens` hashes its first 16 words. `None`: text
    is refused, except MiniGrid's missions, which are left out.
    """
    action_mask: Literal["auto", "info", "none"] = "auto"
    """Where the environment says which actions are legal: `auto`, in the field `action_mask` of its
    observations or by its method `action_masks()`, if it has one of them; `info`, in the entry
    `action_mask` of the info; `none` allows all actions.
    """
    action_bins: int = ranged(3, lambda v: v >= 2, "at least 2")
    """Evenly spaced values of each dimension of continuous actions, bounds included; 2 gives
    bang-bang control.
    """
    joint_actions: int = positive(64)
    """Up to this many combinations of multi-dimensional actions have a value each. If there are
    more, the values of the choices of each dimension are learned, and an action's value is their
    mean.
    """
    frame_stack: int = positive(1)
    """Number of stacked frames; zero-padded at the start of an episode."""
    reward_scale: float = positive(1.0)
    """Multiply the rewards of the learner by this, before they are clipped; reported returns are
    not scaled.
    """
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
        """Whether ALE's vector environment plays this id. It takes no wrappers, and lacks some
        options of ale-py's single environment.
        """
        is_single = bool(self.wrappers) or not _ONLY_SINGLE.isdisjoint(json.loads(self.kwargs))
        return self.has_atari_id and not is_single

    @property
    def has_atari_id(self) -> bool:
        """Whether the id is one of ALE's."""
        return self.id.removeprefix("ale_py:").startswith("ALE/")

    @property
    def in_this_process(self) -> EnvConfig:
        """The same environments without processes of their own."""
        is_async = self.vectorization == "async"
        return dataclasses.replace(self, vectorization="sync") if is_async else self

    @property
    def ready_envs(self) -> int:
        """Environments that complete a step of a rank, and so its env steps."""
        return math.ceil(self.ready_fraction * self.num_envs - 1e-9)  # 0.07 · 100 is 7.000…01

    @property
    def frames_per_env_step(self) -> int:
        """Frames that one env step counts for in reports."""
        if not self.is_atari:
            return 1
        return 4 if self.frame_skip is None else self.frame_skip

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = keywords.problem_of(self.kwargs)
        if problem:
            self.refuse("kwargs", self.kwargs, problem)
        for wrapper in self.wrappers:
            _, given, arguments = wrapper.partition("=")
            if given and (problem := keywords.problem_of(arguments)):
                self.refuse("wrappers", wrapper, f"{arguments!r} {problem}")
        if self.overlap_acting and not self.overlap_updates:
            self.refuse(
                "overlap_acting", True, "requires env.overlap_updates; set it to True as well"
            )
        if self.ready_fraction < 1 and self.vectorization != "async":
            self.refuse(
                "ready_fraction",
                self.ready_fraction,
                "requires environments in processes; set env.vectorization to async",
            )
        for name in ("atari_protocol", "frame_skip"):
            value = getattr(self, name)
            if value is not None and self.has_atari_id and not self.is_atari:
                self.refuse(
                    name,
                    value,
                    "is for ALE's vector environment, which takes no env.wrappers and no "
                    f"{', '.join(sorted(_ONLY_SINGLE))} in env.kwargs; set it to none",
                )
            if value is not None and not self.is_atari:
                self.refuse(name, value, f"{self.id!r} is not an Atari game (ALE/…); leave it None")
        if self.is_atari and self.vectorization != "sync":
            self.refuse(
                "vectorization",
                self.vectorization,
                "ALE steps Atari games in its own threads; leave it sync",
            )
        if self.vectorization == "vector" and self.wrappers:
            reason = "are for single environments; leave env.vectorization sync"
            self.refuse("wrappers", self.wrappers, reason)
        if self.ranks_per_env and (self.is_atari or self.vectorization != "sync"):
            reason = (
                "ALE steps Atari games in threads of the ranks that learn"
                if self.is_atari
                else "these environments run on ranks of their own; leave env.vectorization sync"
            )
            self.refuse("ranks_per_env", self.ranks_per_env, reason)


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
class RolloutConfig(Section):
    """Learning from rollouts instead of a replay (PQN, Gallici et al. 2025)."""

    prefix = "rollout."

    steps: int = non_negative(0)
    """Steps of each environment in an iteration, T. 0: learn from a replay. Otherwise each
    iteration takes T vector steps and then makes updates on these steps alone, towards λ-returns
    of Q-learning; there is no replay, and no target network is used.
    """
    epochs: int = positive(2)
    """How often an iteration's updates use each step."""
    minibatches: int = positive(32)
    """Updates of an epoch: each takes 1 / `minibatches` of a rank's T · `env.num_envs` steps."""
    td_lambda: float = fraction(0.65)
    """λ: 0 bootstraps from the next observation, 1 sums rewards to the end of the rollout."""


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
