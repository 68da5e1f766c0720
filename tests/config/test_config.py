"""Validation at birth, with the fix in the message; and no field that nobody reads."""

import ast
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OptimizerConfig(learning_rate=0.0), ["optimizer.learning_rate", "0.0", "greater"]),
        (
            lambda: OptimizerConfig(learning_rate=float("inf")),
            ["optimizer.learning_rate", "finite"],
        ),
        (lambda: OptimizerConfig(learning_rate="x"), ["optimizer.learning_rate", "'x'", "float"]),
        (lambda: OptimizerConfig(max_grad_norm=-1.0), ["optimizer.max_grad_norm", "-1.0"]),
        (lambda: OptimizerConfig(world_size_scaling="cubic"), ["one of none, sqrt, linear"]),
        (lambda: OptimizerConfig(weight_decay=0.1), ["optimizer.weight_decay", "adamw"]),
        (lambda: ObjectiveConfig(gamma=1.5), ["objective.gamma", "1.5", "between 0 and 1"]),
        (lambda: ObjectiveConfig(gamma=True), ["objective.gamma", "True"]),
        (lambda: ObjectiveConfig(double=1), ["objective.double", "bool"]),
        (lambda: ReplayConfig(batch_size=0), ["replay.batch_size"]),
        (lambda: ReplayConfig(batch_size=1.5), ["replay.batch_size", "int"]),
        (lambda: ReplayConfig(n_step=0), ["replay.n_step", "between 1 and 255"]),
        (lambda: NetworkConfig(hidden_sizes=()), ["network.hidden_sizes", "one or more"]),
        (lambda: NetworkConfig(hidden_sizes=(0,)), ["network.hidden_sizes"]),
        (lambda: NetworkConfig(hidden_sizes=[64]), ["network.hidden_sizes"]),
        (lambda: EnvConfig(kwargs="{"), ["env.kwargs", "not JSON"]),
        (lambda: EnvConfig(kwargs="[1]"), ["env.kwargs", "JSON object"]),
        (lambda: EnvConfig(frame_stack=0), ["env.frame_stack", "greater than 0"]),
        (lambda: EnvConfig(reward_clip=0.0), ["env.reward_clip", "greater than 0"]),
        (
            lambda: EnvConfig(atari_protocol="mnih2015"),
            ["env.atari_protocol", "'CartPole-v1' is not an Atari game", "leave it None"],
        ),
        (lambda: EnvConfig(frame_skip=4), ["env.frame_skip", "'CartPole-v1'", "leave it None"]),
        (
            lambda: EnvConfig(id="ALE/Pong-v5", atari_protocol="dopamine"),
            ["env.atari_protocol", "machado2018"],
        ),
        (
            lambda: EnvConfig(id="ALE/Pong-v5", vectorization="async"),
            ["env.vectorization", "own threads", "leave it sync"],
        ),
        (lambda: ExplorationConfig(epsilon_final=-0.1), ["exploration.epsilon_final"]),
        (lambda: EvaluationConfig(episodes=0), ["evaluation.episodes"]),
        (lambda: Config(seed=-1), ["seed", "0 or greater"]),
        (lambda: Config(total_env_steps=10), ["learning_starts_env_steps", "raise the total"]),
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
        (lambda: ObjectiveConfig(v_min=10.0), ["objective.v_min", "less than objective.v_max"]),
        (lambda: ObjectiveConfig(num_atoms=1), ["objective.num_atoms", "2 or greater"]),
        (lambda: NetworkConfig(spectral_norm=True), ["network.spectral_norm", "'impala'"]),
        (lambda: NetworkConfig(torso="nature", pool_size=6), ["network.pool_size", "'impala'"]),
        (lambda: NetworkConfig(dropout=1.0), ["network.dropout", "less than 1"]),
        (lambda: Config(target_step=0.0), ["target_step", "greater than 0"]),
        (
            lambda: OptimizerConfig(schedule="cosine"),
            ["optimizer.schedule", "final_learning_rate_fraction below 1"],
        ),
        (
            lambda: Config(
                distributed=DistributedConfig(average="parameters"),
                optimizer=OptimizerConfig(world_size_scaling="sqrt"),
            ),
            ["optimizer.world_size_scaling", "set it to none"],
        ),
        (
            lambda: Config(
                distributed=DistributedConfig(average="parameters"), target_period_updates=7
            ),
            ["target_period_updates = 7", "distributed.average_period_updates = 10", "multiple"],
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


def test_every_field_is_read_by_some_module():
    """By `config.section.field`, or by a section passed on under its own name or as `config`, and
    kept as `_config`.
    """
    package = Path(hvd_dqn.__file__).parent
    sources = [p.read_text() for p in package.rglob("*.py") if "presets" not in p.parts]
    reads = set()
    for node in (node for text in sources for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            owners = {getattr(owner, "attr", None), getattr(owner, "id", None)}
            reads |= {(name, node.attr) for name in owners if name}
    unread = []
    for name in Config().flat():
        section, _, field = name.rpartition(".")
        # a section's own methods read `self.field`; a function given one section calls it config
        if not {(owner, field) for owner in (section, "config", "_config", "self", "env")} & reads:
            unread.append(name)
    assert unread == []


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
