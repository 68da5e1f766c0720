"""The settings of a run: frozen, validated dataclasses. A preset is a function that returns a
`Config` (see `presets`).

Names contain units. `num_envs`, `batch_size` and `replay.capacity` are per rank; `*_env_steps`
count steps of single environments, over all environments of all ranks; an update is one optimizer
step.
"""

from hvd_dqn.config.experience import EnvConfig, ExplorationConfig, ReplayConfig, RolloutConfig
from hvd_dqn.config.learning import NetworkConfig, ObjectiveConfig, OptimizerConfig
from hvd_dqn.config.run import Config
from hvd_dqn.config.running import (
    CheckpointConfig,
    DistributedConfig,
    EvaluationConfig,
    LoggingConfig,
)
from hvd_dqn.config.section import ConfigError

__all__ = [
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "DistributedConfig",
    "EnvConfig",
    "EvaluationConfig",
    "ExplorationConfig",
    "LoggingConfig",
    "NetworkConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ReplayConfig",
    "RolloutConfig",
]
