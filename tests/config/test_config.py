"""Settings are validated when they are made, with the fix in the message, and all are read."""

import dataclasses
from pathlib import Path

import pytest

import hvd_dqn
from hvd_dqn.config import (
    Config,
    ConfigError,
    DistributedConfig,
    EnvConfig,
    EvaluationConfig,
    ExplorationConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ReplayConfig,
)
from tests.config.field_reads import field_reads


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OptimizerConfig(learning_rate=0.0), ["optimizer.learning-rate", "0.0", "greater"]),
        (
            lambda: OptimizerConfig(learning_rate=float("inf")),
            ["optimizer.learning-rate", "finite"],
        ),
        (lambda: OptimizerConfig(learning_rate="x"), ["optimizer.learning-rate", "'x'", "float"]),
        (lambda: OptimizerConfig(max_grad_norm=-1.0), ["optimizer.max-grad-norm", "-1.0"]),
        (lambda: OptimizerConfig(world_size_scaling="cubic"), ["one of none, sqrt, linear"]),
        (lambda: OptimizerConfig(weight_decay=0.1), ["optimizer.weight-decay", "adamw"]),
        (lambda: ObjectiveConfig(gamma=1.5), ["objective.gamma", "1.5", "between 0 and 1"]),
        (lambda: ObjectiveConfig(gamma=True), ["objective.gamma", "True"]),
        (lambda: ObjectiveConfig(double=1), ["objective.double", "bool"]),
        (lambda: ReplayConfig(batch_size=0), ["replay.batch-size"]),
        (lambda: ReplayConfig(batch_size=1.5), ["replay.batch-size", "int"]),
        (lambda: ReplayConfig(n_step=0), ["replay.n-step", "between 1 and 255"]),
        (lambda: NetworkConfig(hidden_sizes=()), ["network.hidden-sizes", "one or more"]),
        (lambda: NetworkConfig(hidden_sizes=(0,)), ["network.hidden-sizes"]),
        (lambda: NetworkConfig(hidden_sizes=[64]), ["network.hidden-sizes"]),
        (lambda: EnvConfig(kwargs="{"), ["env.kwargs", "not JSON"]),
        (lambda: EnvConfig(kwargs="[1]"), ["env.kwargs", "JSON object"]),
        (lambda: EnvConfig(frame_stack=0), ["env.frame-stack", "greater than 0"]),
        (lambda: EnvConfig(reward_clip=0.0), ["env.reward-clip", "greater than 0"]),
        (
            lambda: EnvConfig(atari_protocol="mnih2015"),
            ["env.atari-protocol", "'CartPole-v1' is not an Atari game", "leave it None"],
        ),
        (lambda: EnvConfig(frame_skip=4), ["env.frame-skip", "'CartPole-v1'", "leave it None"]),
        (
            lambda: EnvConfig(id="ALE/Pong-v5", atari_protocol="dopamine"),
            ["env.atari-protocol", "machado2018"],
        ),
        (
            lambda: EnvConfig(id="ALE/Pong-v5", vectorization="async"),
            ["env.vectorization", "own threads", "leave it sync"],
        ),
        (
            lambda: EnvConfig(ready_fraction=0.5),
            ["env.ready-fraction = 0.5", "set env.vectorization to async"],
        ),
        (
            lambda: Config(
                env=EnvConfig(ready_fraction=0.5, vectorization="async"),
                exploration=ExplorationConfig(zeta_exponent=2.0),
            ),
            ["exploration.zeta-exponent = 2.0", "different times", "set it to None"],
        ),
        (lambda: ExplorationConfig(epsilon_final=-0.1), ["exploration.epsilon-final"]),
        (lambda: EvaluationConfig(episodes=0), ["evaluation.episodes"]),
        (lambda: Config(seed=-1), ["seed", "0 or greater"]),
        (lambda: Config(total_env_steps=10), ["learning-starts-env-steps", "raise the total"]),
        (
            lambda: Config(replay=ReplayConfig(capacity=16)),
            ["replay.capacity", "raise the capacity"],
        ),
        (
            lambda: Config(
                replay=ReplayConfig(capacity=64, n_step=4), env=EnvConfig(frame_stack=4)
            ),
            ["replay.capacity", "8 rows", "n-step windows of 4", "stacks of 4", "raise"],
        ),
        (
            lambda: ObjectiveConfig(munchausen=True),
            ["objective.munchausen", "set objective.double to False"],
        ),
        (lambda: ObjectiveConfig(v_min=10.0), ["objective.v-min", "less than objective.v"]),
        (lambda: ObjectiveConfig(num_atoms=1), ["objective.num-atoms", "2 or greater"]),
        (lambda: NetworkConfig(spectral_norm=True), ["network.spectral-norm", "'impala'"]),
        (lambda: NetworkConfig(torso="nature", pool_size=6), ["network.pool-size", "'impala'"]),
        (lambda: NetworkConfig(dropout=1.0), ["network.dropout", "less than 1"]),
        (lambda: Config(target_step=0.0), ["target-step", "greater than 0"]),
        (
            lambda: OptimizerConfig(schedule="cosine"),
            ["optimizer.schedule", "final_learning_rate_fraction below 1"],
        ),
        (
            lambda: Config(
                distributed=DistributedConfig(average="parameters"),
                optimizer=OptimizerConfig(world_size_scaling="sqrt"),
            ),
            ["optimizer.world-size-scaling", "set it to none"],
        ),
        (
            lambda: Config(
                distributed=DistributedConfig(average="server"),
                optimizer=OptimizerConfig(world_size_scaling="sqrt"),
            ),
            ["optimizer.world-size-scaling", "'server'", "set it to none"],
        ),
        (
            lambda: Config(
                distributed=DistributedConfig(average="server"),
                optimizer=OptimizerConfig(cuda_graph=True),
            ),
            ["optimizer.cuda-graph", "on the host", "set it to False"],
        ),
        (
            lambda: Config(
                distributed=DistributedConfig(average="parameters"), target_period_updates=7
            ),
            ["target-period-updates = 7", "distributed.average-period-updates = 10", "multiple"],
        ),
    ],
)
def test_bad_values_are_refused_with_the_fix(make, words):
    with pytest.raises(ConfigError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_zero_is_a_value():
    assert ExplorationConfig(epsilon_initial=0.0, epsilon_final=0.0).epsilon_initial == 0.0
    assert ObjectiveConfig(gamma=0.0).gamma == 0.0
    assert OptimizerConfig(max_grad_norm=None).max_grad_norm is None


@pytest.mark.parametrize(
    ("env", "frames"),
    [
        (EnvConfig(), 1),
        (EnvConfig(id="ALE/Pong-v5"), 4),
        (EnvConfig(id="ale_py:ALE/Pong-v5", frame_skip=5), 5),
    ],
)
def test_frames_of_an_env_step(env, frames):
    assert env.frames_per_env_step == frames


def test_sections_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3


def unread_fields(config):
    """Return the settings, as section.field, that no module reads."""
    package = Path(hvd_dqn.__file__).parent
    reads = field_reads(p.read_text() for p in package.rglob("*.py") if "presets" not in p.parts)
    unread = []
    for name in config.flat():
        section, _, field = name.rpartition(".")
        owner = getattr(config, section) if section else config
        if (type(owner).__name__, field) not in reads:
            unread.append(name)
    return unread


def test_every_field_is_read_by_some_module():
    assert unread_fields(Config()) == []


def test_a_field_that_nobody_reads_is_found():
    """Even if other objects, such as paths and specs, have attributes of that name."""
    fields = [("spare", int, 0), ("name", str, ""), ("path", str, "")]
    larger = dataclasses.make_dataclass(
        "EnvConfig", fields, bases=(EnvConfig,), frozen=True, kw_only=True
    )
    assert unread_fields(Config(env=larger())) == ["env.spare", "env.name", "env.path"]


def test_reads_are_resolved_by_annotations():
    source = """
class EnvConfig:
    checked: int
    def __post_init__(self): assert self.checked
    def own(self): return self.in_method
class Config:
    env: EnvConfig
class Simulator:
    def __init__(self, config: "EnvConfig | None", other):
        self.config, self.spare = config, other.spare
class Player(Simulator):
    def step(self): return self.config.in_subclass + self.spare
def load() -> Config: ...
def run(config: Config, spare, other):
    env = load().env
    return config.env.in_chain, env.in_local, getattr(env, "by_name"), other.spare
def rebound(env: EnvConfig, other):
    env = other
    return env.spare
"""
    reads = {field for owner, field in field_reads([source]) if owner == "EnvConfig"}
    assert reads == {"in_method", "in_subclass", "in_chain", "in_local", "by_name"}


@pytest.mark.parametrize(
    ("total", "starts", "vector_steps", "updates", "world_size"),
    [
        (1000, 100, 2, 3, 1),
        (1000, 100, 2, 3, 3),
        (1000, 96, 3, 1, 2),
        (997, 0, 1, 2, 1),
        (50, 49, 7, 1, 1),
    ],
)
def test_planned_updates_are_those_that_a_loop_makes(
    total, starts, vector_steps, updates, world_size
):
    config = Config(
        total_env_steps=total,
        learning_starts_env_steps=starts,
        vector_steps_per_iteration=vector_steps,
        updates_per_iteration=updates,
        env=EnvConfig(num_envs=4),
        replay=ReplayConfig(n_step=5),
    )
    env_steps = made = taken = 0
    while env_steps < total:
        env_steps += 4 * vector_steps * world_size
        taken += vector_steps
        if env_steps >= starts and taken >= 5:
            made += updates
    assert config.planned_updates(world_size) == made
    assert made > 0
