"""`Config`: all settings of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hvd_dqn.config.experience import EnvConfig, ExplorationConfig, ReplayConfig, RolloutConfig
from hvd_dqn.config.keywords import merged_text
from hvd_dqn.config.learning import NetworkConfig, ObjectiveConfig, OptimizerConfig
from hvd_dqn.config.running import (
    CheckpointConfig,
    DistributedConfig,
    EvaluationConfig,
    LoggingConfig,
)
from hvd_dqn.config.section import ConfigError, Section, non_negative, positive, ranged


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """The settings of one run. Every field is a command-line option, written with hyphens:
    `env.num_envs` is `--env.num-envs`.
    """

    preset: str = "cartpole"
    """Name of the preset that the run starts from, or a name of your own. In a file, it selects the
    preset whose settings apply to those that the file does not mention.
    """
    seed: int = non_negative(0)
    """Seed of every random stream of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU of this local rank if there is one, otherwise the CPU."""
    total_env_steps: int = positive(50_000)
    """Training budget: env steps over all environments of all ranks."""
    learning_starts_env_steps: int = non_negative(1_000)
    """Env steps, over all ranks, before the first update."""
    vector_steps_per_iteration: int = positive(1)
    """Vector-environment steps of each iteration, before its updates (train frequency)."""
    updates_per_iteration: int = positive(1)
    """Updates of each iteration (gradient steps)."""
    target_period_updates: int = positive(100)
    """Target network update period, in updates; synchronised across ranks."""
    target_step: float = ranged(1.0, lambda v: 0 < v <= 1, "greater than 0 and at most 1")
    """Polyak factor tau of a target network update: 1 copies the online network (Mnih et al. 2015),
    less moves the target towards it (Lillicrap et al. 2016).
    """
    time_limit_minutes: float | None = positive(None)
    """Save a checkpoint and stop after this many minutes; `None`: no limit."""
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout.steps:
            self._require_rollouts()
        else:
            self._require_capacity()
            for name in ("epochs", "minibatches", "td_lambda"):
                if getattr(self.rollout, name) != getattr(RolloutConfig, name):
                    self.rollout.refuse(
                        name, getattr(self.rollout, name), "requires rollout.steps greater than 0"
                    )
        if self.env.ready_fraction < 1 and self.exploration.zeta_exponent is not None:
            self.exploration.refuse(
                "zeta_exponent",
                self.exploration.zeta_exponent,
                "repeats an action for a number of steps of all environments, which with "
                "env.ready-fraction below 1 step at different times; set it to None",
            )
        average = self.distributed.average
        if average in ("parameters", "server") and self.optimizer.world_size_scaling != "none":
            raise ConfigError(
                f"optimizer.world-size-scaling = {self.optimizer.world_size_scaling!r}: with "
                f"distributed.average = {average!r} each rank steps on its own batch; set it to "
                "none"
            )
        if average == "server" and self.optimizer.cuda_graph:
            raise ConfigError(
                "optimizer.cuda-graph = True: with distributed.average = 'server' the steps are "
                "taken on the host; set it to False"
            )
        for section, name in (
            (self.network, "normalize_observations"),
            (self.objective, "normalize_rewards"),
        ):
            if getattr(section, name):
                self._require_sums_of_moments(section, name)
        fixed = [n for n in ("compile", "cuda_graph") if getattr(self.optimizer, n)]
        if self.network.dropout > 0 and fixed:
            raise ConfigError(
                f"optimizer.{fixed[0].replace('_', '-')} = True: network.dropout = "
                f"{self.network.dropout!r} draws random numbers in every pass, which a compiled or "
                "recorded program cannot; set it to False"
            )
        averaging = self.distributed.average_period_updates
        if average == "parameters" and self.target_period_updates % averaging:
            self.refuse(
                "target_period_updates",
                self.target_period_updates,
                f"must be a multiple of distributed.average-period-updates = {averaging}, or the "
                "target networks of the ranks differ",
            )
        if self.env.ranks_per_env and self.evaluation.envs == "own":
            self.evaluation.refuse(
                "envs", "own", "env.ranks-per-env has ranks for the training environments only"
            )
        if self.env.ranks_per_env and self.logging.video:
            self.logging.refuse("video", True, "environments with env.ranks-per-env are not drawn")
        if self.learning_starts_env_steps >= self.total_env_steps:
            self.refuse(
                "learning_starts_env_steps",
                self.learning_starts_env_steps,
                f"must be less than total-env-steps = {self.total_env_steps}, or no update runs; "
                "raise the total",
            )

    def _require_capacity(self) -> None:
        """Raise `ConfigError` if the replay cannot hold a window."""
        rows = self.replay.capacity // self.env.num_envs
        needed = self.replay.n_step + self.env.frame_stack
        if rows <= needed:
            raise ConfigError(
                f"replay.capacity = {self.replay.capacity}: gives {rows} rows to each of "
                f"{self.env.num_envs} environments, but n-step windows of {self.replay.n_step} on "
                f"stacks of {self.env.frame_stack} need more than {needed}; raise the capacity"
            )

    def _require_rollouts(self) -> None:
        """Raise `ConfigError` for what rollouts do not go with."""
        rollout = self.rollout
        steps = rollout.steps * self.env.num_envs
        if steps % rollout.minibatches:
            rollout.refuse(
                "minibatches",
                rollout.minibatches,
                f"must divide the {steps:,} steps of a rollout (rollout.steps · env.num-envs = "
                f"{rollout.steps} · {self.env.num_envs})",
            )
        instead = "with rollout.steps"
        rules: tuple[tuple[Section, str, object, str], ...] = (
            (self, "vector_steps_per_iteration", 1, f"{instead}, an iteration is one rollout"),
            (
                self,
                "updates_per_iteration",
                1,
                f"{instead}, an iteration has rollout.epochs · rollout.minibatches updates",
            ),
            (self.replay, "n_step", 1, f"{instead}, returns are those of rollout.td-lambda"),
            (self.replay, "sampling", "uniform", f"{instead}, there is no replay to sample"),
            (self.replay, "storage", "host", f"{instead}, there is no replay to store"),
            (self.replay, "capacity", 50_000, f"{instead}, there is no replay to hold anything"),
            (
                self.replay,
                "batch_size",
                64,
                f"{instead}, a batch is 1 / rollout.minibatches of a rank's steps",
            ),
            (
                self.objective,
                "distribution",
                "expected",
                "λ-returns are of expected values; the distribution of a mixture of returns is not "
                "defined here",
            ),
            (self.objective, "munchausen", False, f"{instead}, bootstraps are maxima"),
            (
                self.objective,
                "double",
                False,
                f"{instead}, no target network is used that could value the action",
            ),
            (
                self.objective,
                "normalize_rewards",
                False,
                f"{instead}, an update has λ-returns, not rewards; use env.reward-scale",
            ),
            (self.env, "overlap_updates", False, f"{instead}, updates need the whole rollout"),
            (self.env, "ready_fraction", 1.0, f"{instead}, every environment takes every step"),
        )
        for section, name, needed, reason in rules:
            value = getattr(section, name)
            if value != needed:
                section.refuse(name, value, f"{reason}; set it to {needed}")

    def _require_sums_of_moments(self, section: Section, name: str) -> None:
        """Raise `ConfigError` for this setting if updates do not sum the moments of batches."""
        for setting, value, needed in (
            ("distributed.average", self.distributed.average, "gradients"),
            ("optimizer.cuda-graph", self.optimizer.cuda_graph, False),
        ):
            if value != needed:
                section.refuse(
                    name,
                    True,
                    f"sums its statistics with the gradients of every update: set {setting} to "
                    f"{needed}, or this to False",
                )

    def ranks_together(self, world_size: int) -> int:
        """Ranks that take each iteration and its updates together: all, or with a parameter server
        one.
        """
        return 1 if self.distributed.average == "server" else world_size

    def global_batch_size(self, world_size: int) -> int:
        """Transitions of one update, over the ranks that make it together."""
        return self.batch_size * self.ranks_together(world_size)

    @property
    def vector_steps(self) -> int:
        """Vector steps of an iteration."""
        return self.rollout.steps or self.vector_steps_per_iteration

    @property
    def updates(self) -> int:
        """Updates of an iteration."""
        if self.rollout.steps:
            return self.rollout.epochs * self.rollout.minibatches
        return self.updates_per_iteration

    @property
    def batch_size(self) -> int:
        """Transitions of one update of a rank."""
        if self.rollout.steps:
            return self.rollout.steps * self.env.num_envs // self.rollout.minibatches
        return self.replay.batch_size

    def env_steps_per_iteration(self, world_size: int) -> int:
        """Env steps of one iteration, over the ranks that take it together."""
        vector_steps = self.vector_steps * self.ranks_together(world_size)
        return self.env.ready_envs * vector_steps

    def updates_start_env_steps(self, world_size: int) -> int:
        """Env steps, over all ranks, before the first update: at least as many as every rank needs
        for a complete n-step window or rollout.
        """
        if self.rollout.steps:
            return max(self.learning_starts_env_steps, self.env_steps_per_iteration(world_size))
        steps = self.replay.n_step + self.env.overlap_updates
        first_windows = steps * self.env.num_envs * world_size
        return max(self.learning_starts_env_steps, first_windows)

    def planned_updates(self, world_size: int) -> int:
        """Updates of the whole run: those of every iteration that ends at or after the env step
        at which updates start.
        """
        step = self.env_steps_per_iteration(world_size)
        iterations = -(-self.total_env_steps // step)
        without_update = -(-self.updates_start_env_steps(world_size) // step) - 1
        return max(iterations - without_update, 0) * self.updates

    @property
    def checkpoint_period_env_steps(self) -> int:
        """Env steps, over all ranks, between checkpoints."""
        period = self.checkpoint.period_env_steps
        return -(-self.total_env_steps // 20) if period is None else period

    @property
    def evaluation_env(self) -> EnvConfig:
        """The environments of evaluations and videos."""
        own = json.loads(self.evaluation.env_kwargs)
        return dataclasses.replace(self.env, kwargs=merged_text(self.env.kwargs, own))

    def changed(self, fields: Mapping[str, Any]) -> Config:
        """Return a copy with these values; `fields` is keyed by `section.field`. A mapping is
        written as JSON.
        """
        sections: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for name, value in fields.items():
            section, _, field_name = name.rpartition(".")
            text = json.dumps(value) if isinstance(value, Mapping) else value
            (sections.setdefault(section, {}) if section else own)[field_name] = text
        for section, values in sections.items():
            own[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **own)

    def flat(self) -> dict[str, Any]:
        """Return every field, keyed by `section.field`."""
        return flatten(dataclasses.asdict(self))

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested `settings` as one dictionary by option name, `section.field`."""
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            fields |= {f"{name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            fields[name] = value
    return fields
