"""The whole of a run's settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hvd_dqn.config.experience import EnvConfig, ExplorationConfig, ReplayConfig
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
    """One run. Every field is a command line option of the same name."""

    preset: str = "cartpole"
    """The preset this run started from; a label only."""
    seed: int = non_negative(0)
    """Root of every random stream of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU of this local rank where there is one."""
    total_env_steps: int = positive(50_000)
    """Decisions over all environments and all ranks; the run's budget."""
    learning_starts_env_steps: int = non_negative(1_000)
    """Global env steps before the first update."""
    vector_steps_per_iteration: int = positive(1)
    """Steps of the vector environment between updates."""
    updates_per_iteration: int = positive(1)
    """Updates after each collection."""
    target_period_updates: int = positive(100)
    """Updates between changes of the target network, synchronised over ranks."""
    target_step: float = ranged(1.0, lambda v: 0 < v <= 1, "greater than 0 and at most 1")
    """Share of the way from the target to the online network that a change goes: 1 copies it
    (Mnih et al. 2015), less moves it softly (Lillicrap et al. 2016).
    """
    time_limit_minutes: float | None = positive(None)
    """Stop with a checkpoint after this much time; `None`: no limit."""
    env: EnvConfig = field(default_factory=EnvConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.replay.capacity // self.env.num_envs
        needed = self.replay.n_step + self.env.frame_stack
        if rows <= needed:
            raise ConfigError(
                f"replay.capacity = {self.replay.capacity} gives {rows} rows to each of "
                f"env.num_envs = {self.env.num_envs}: n-step windows of {self.replay.n_step} on "
                f"stacks of {self.env.frame_stack} need more than {needed}; raise the capacity"
            )
        if self.distributed.average == "parameters" and self.optimizer.world_size_scaling != "none":
            raise ConfigError(
                f"optimizer.world_size_scaling = {self.optimizer.world_size_scaling!r}: with "
                "distributed.average = 'parameters' each rank steps on a batch of its own; set it "
                "to none"
            )
        fixed = [n for n in ("compile", "cuda_graph") if getattr(self.optimizer, n)]
        if self.network.dropout > 0 and fixed:
            raise ConfigError(
                f"optimizer.{fixed[0]} = True: network.dropout = {self.network.dropout!r} draws "
                "random numbers within the passes, which a fixed program does not; set it to False"
            )
        averaging = self.distributed.average_period_updates
        if self.distributed.average == "parameters" and self.target_period_updates % averaging:
            raise ConfigError(
                f"target_period_updates = {self.target_period_updates} is no multiple of "
                f"distributed.average_period_updates = {averaging}: the target network would be "
                "one rank's own; make it a multiple"
            )
        if self.learning_starts_env_steps >= self.total_env_steps:
            raise ConfigError(
                f"learning_starts_env_steps = {self.learning_starts_env_steps} is not below "
                f"total_env_steps = {self.total_env_steps}: no update would run; raise the total"
            )

    def env_steps_per_iteration(self, world_size: int) -> int:
        """Global env steps of one collection."""
        return self.env.num_envs * self.vector_steps_per_iteration * world_size

    def updates_start_env_steps(self, world_size: int) -> int:
        """Global env steps after which every rank surely holds a complete n-step window."""
        steps = self.replay.n_step + self.env.overlap_updates
        first_windows = steps * self.env.num_envs * world_size
        return max(self.learning_starts_env_steps, first_windows)

    def planned_updates(self, world_size: int) -> int:
        """Optimizer steps of the whole run: those of every iteration that ends at or after the
        start of updates.
        """
        step = self.env_steps_per_iteration(world_size)
        iterations = -(-self.total_env_steps // step)
        without_update = -(-self.updates_start_env_steps(world_size) // step) - 1
        return max(iterations - without_update, 0) * self.updates_per_iteration

    @property
    def checkpoint_period_env_steps(self) -> int:
        """Global env steps between checkpoints."""
        period = self.checkpoint.period_env_steps
        return -(-self.total_env_steps // 20) if period is None else period

    def changed(self, fields: Mapping[str, Any]) -> Config:
        """This run with other values of some fields, by option name (`section.field`)."""
        sections: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for name, value in fields.items():
            section, _, field_name = name.rpartition(".")
            (sections.setdefault(section, {}) if section else own)[field_name] = value
        for section, values in sections.items():
            own[section] = dataclasses.replace(getattr(self, section), **values)
        return dataclasses.replace(self, **own)

    def flat(self) -> dict[str, Any]:
        """Every field by its option name, `section.field`."""
        fields: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, dict):
                fields |= {f"{name}.{key}": inner for key, inner in value.items()}
            else:
                fields[name] = value
        return fields

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
