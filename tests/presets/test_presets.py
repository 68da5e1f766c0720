"""Every preset is pinned: its published settings in tables here, all of its settings in
`pinned_presets.json`, which `python -m tests.presets.pin` writes. A preset that changes must be
measured again.
"""

import json

import pytest

from hvd_dqn.config import Config
from hvd_dqn.presets import PRESETS, atari, atari_cpu, classic, minatar, pqn
from tests.presets.pin import PINNED

CLASSIC = {
    "cartpole": ("CartPole-v1", 50_000, 2, 8, 64, 5, 1e-3, 100, 0.1, None, "sqrt", True),
    "acrobot": ("Acrobot-v1", 100_000, 1, 8, 128, 1, 6.3e-4, 1, 0.05, 2.0, "sqrt", False),
    "mountaincar": ("MountainCar-v0", 120_000, 2, 8, 128, 5, 1e-3, 100, 0.07, 2.0, "sqrt", True),
    "lunarlander": ("LunarLander-v3", 100_000, 2, 8, 128, 3, 8.5e-4, 250, 0.1, 2.0, "sqrt", False),
}

# From the papers and, if they do not say, dqn_zoo and Dopamine: see presets/atari.py.
_COMMON = {
    "env.frame_stack": 4,
    "env.reward_clip": 1.0,
    "network.hidden_sizes": (512,),
    "objective.gamma": 0.99,
    "objective.double": False,
    "replay.batch_size": 32,
    "replay.capacity": 1_000_000,
    "replay.n_step": 1,
    "replay.sampling": "uniform",
    "network.dueling": False,
    "network.noisy": False,
    "target_step": 1.0,
    "exploration.epsilon_initial": 1.0,
    "exploration.kind": "annealed",
    "optimizer.world_size_scaling": "none",
    "optimizer.final_learning_rate_fraction": 1.0,
}
_ADAM = {"optimizer.name": "adam", "optimizer.adam_eps": 0.0003125}
_RMSPROP = {
    "optimizer.name": "rmsprop",
    "optimizer.learning_rate": 0.00025,
    "optimizer.rmsprop_decay": 0.95,
    "optimizer.rmsprop_eps": (0.01 / 32**2) ** 0.5,
}
_IQN = {
    **_ADAM,
    "optimizer.learning_rate": 0.00005,
    "objective.distribution": "implicit_quantile",
    "objective.num_taus": 64,
    "objective.num_target_taus": 64,
    "objective.num_policy_taus": 32,
    "exploration.epsilon_final": 0.01,
}
_MUNCHAUSEN = {
    "objective.munchausen": True,
    "objective.munchausen_coefficient": 0.9,
    "objective.munchausen_temperature": 0.03,
    "objective.munchausen_clip": -1.0,
    "env.atari_protocol": "machado2018",
}
_2015 = {
    "env.atari_protocol": "mnih2015",
    "learning_starts_env_steps": 50_000,
    "exploration.epsilon_decay_env_steps": 1_000_000,
    "target_period_updates": 2_500,
    "objective.munchausen": False,
    "optimizer.max_grad_norm": None,
}
ATARI = {
    "dqn": {**_2015, **_RMSPROP, "exploration.epsilon_final": 0.1},
    "double-dqn": {
        **_2015,
        **_RMSPROP,
        "objective.double": True,
        "target_period_updates": 7_500,
        "exploration.epsilon_final": 0.01,
    },
    "c51": {
        **_2015,
        **_ADAM,
        "optimizer.learning_rate": 0.00025,
        "optimizer.max_grad_norm": 10.0,
        "objective.distribution": "categorical",
        "objective.num_atoms": 51,
        "objective.v_min": -10.0,
        "objective.v_max": 10.0,
        "exploration.epsilon_final": 0.01,
    },
    "qrdqn": {
        **_2015,
        **_ADAM,
        "optimizer.learning_rate": 0.00005,
        "optimizer.max_grad_norm": 10.0,
        "objective.distribution": "quantile",
        "objective.num_quantiles": 200,
        "exploration.epsilon_final": 0.01,
    },
    "iqn": {**_2015, **_IQN, "learning_starts_env_steps": 20_000},
    "rainbow": {
        **_2015,
        "learning_starts_env_steps": 20_000,
        "target_period_updates": 2_000,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 0.0000625,
        "optimizer.adam_eps": 0.00015,
        "optimizer.max_grad_norm": 10.0,
        "objective.distribution": "categorical",
        "objective.double": True,
        "network.dueling": True,
        "network.noisy": True,
        "network.noisy_sigma": 0.5,
        "replay.n_step": 3,
        "replay.sampling": "prioritized",
        "replay.priority_exponent": 0.5,
        "replay.importance_exponent_initial": 0.4,
        "replay.importance_exponent_final": 1.0,
        "exploration.epsilon_initial": 0.0,
        "exploration.epsilon_final": 0.0,
    },
    "m-iqn": {
        **_IQN,
        **_MUNCHAUSEN,
        "learning_starts_env_steps": 20_000,
        "target_period_updates": 2_000,
        "exploration.epsilon_decay_env_steps": 250_000,
    },
    "btr": {
        **_MUNCHAUSEN,
        "env.num_envs": 64,
        "learning_starts_env_steps": 200_000,
        "target_period_updates": 500,
        "network.torso": "impala",
        "network.impala_width": 2,
        "network.spectral_norm": True,
        "network.pool_size": 6,
        "network.dueling": True,
        "network.noisy": True,
        "objective.gamma": 0.997,
        "objective.distribution": "implicit_quantile",
        "objective.num_taus": 8,
        "objective.num_target_taus": 8,
        "replay.capacity": 2**20,
        "replay.batch_size": 256,
        "replay.n_step": 3,
        "replay.sampling": "prioritized",
        "replay.priority_exponent": 0.2,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 0.0001,
        "optimizer.adam_eps": 0.005 / 256,
        "optimizer.max_grad_norm": 10.0,
        "exploration.epsilon_final": 0.01,
    },
}
MINATAR = {
    "env.id": "MinAtar/Breakout-v0",  # six actions, as published
    "env.frame_stack": 1,
    "env.reward_clip": None,
    "network.hidden_sizes": (128,),
    "learning_starts_env_steps": 1_000,
    "target_period_updates": 250,
    "replay.capacity": 100_000,
    "replay.batch_size": 32,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.00025,
    "optimizer.adam_eps": 0.0003125,
    "objective.gamma": 0.99,
}
HIGHWAY = {
    "env.id": "highway-fast-v0",
    "total_env_steps": 20_000,
    "learning_starts_env_steps": 200,
    "target_period_updates": 50,
    "network.hidden_sizes": (256, 256),
    "replay.capacity": 15_000,
    "replay.batch_size": 32,
    "objective.gamma": 0.8,
    "optimizer.learning_rate": 0.0005,
}


def expect(config: Config, fields: dict[str, object]) -> None:
    flat = config.flat()
    assert {name: flat[name] for name in fields} == fields


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_control(name):
    config = PRESETS[name]()
    assert CLASSIC[name] == (
        config.env.id,
        config.total_env_steps,
        config.vector_steps_per_iteration,
        config.updates_per_iteration,
        config.replay.batch_size,
        config.replay.n_step,
        config.optimizer.learning_rate,
        config.target_period_updates,
        config.exploration.epsilon_final,
        config.exploration.zeta_exponent,
        config.optimizer.world_size_scaling,
        config.network.scale_observations,
    )
    assert config.objective.double
    assert config.objective.gamma == 0.99


@pytest.mark.parametrize("name", ATARI)
def test_atari(name):
    config = PRESETS[name]()
    expect(config, _COMMON | ATARI[name])
    env_steps_an_update = config.env_steps_per_iteration(1) / config.updates_per_iteration
    assert env_steps_an_update == (64 if name == "btr" else 4)


@pytest.mark.parametrize("name", ATARI)
def test_minatar_keeps_the_agent_and_changes_the_training(name):
    config = PRESETS[f"minatar-{name}"]()
    kept = [
        "objective.distribution",
        "objective.munchausen",
        "objective.double",
        "network.dueling",
        "network.noisy",
        "replay.n_step",
        "replay.sampling",
        "replay.priority_exponent",
    ]
    expect(config, MINATAR | {field: PRESETS[name]().flat()[field] for field in kept})
    assert config.env_steps_per_iteration(1) / config.updates_per_iteration == 4


def test_highway():
    expect(PRESETS["highway"](), HIGHWAY)


@pytest.mark.parametrize("name", atari_cpu.PRESETS)
def test_atari_on_cpus_is_double_dqn_with_other_settings(name):
    found = {"env.id": "ALE/Breakout-v5" if name == "atari-cpu" else "ALE/Pong-v5"}
    found["total_env_steps"] = 2_000_000 if name == "atari-cpu" else 700_000
    changes = {
        "learning_starts_env_steps": 10_000,
        "target_period_updates": 1_000,
        "network.torso": "mnih2013",
        "network.hidden_sizes": (256,),
        "replay.capacity": 100_000,
        "replay.n_step": 3,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 2.5e-4,
        "optimizer.adam_eps": 1e-4,
        "exploration.epsilon_decay_env_steps": 100_000,
    }
    expect(PRESETS[name](), _COMMON | ATARI["double-dqn"] | found | changes)


# From purejaxql's configurations, as above: envs, steps, epochs, minibatches, λ, learning rate, its
# final fraction, ε, hidden layers, reward scale.
PQN = {
    "pqn": (128, 32, 2, 32, 0.65, 2.5e-4, 1.0, 0.001, (512,), 1.0),
    "minatar-pqn": (128, 32, 2, 32, 0.65, 5e-4, 0.0, 0.05, (128,), 1.0),
    "cartpole-pqn": (32, 64, 4, 16, 0.95, 1e-4, 0.0, 0.2, (256, 256), 0.1),
}


@pytest.mark.parametrize("name", PQN)
def test_rollouts(name):
    c = PRESETS[name]()
    rollout = c.rollout
    assert PQN[name] == (
        c.env.num_envs,
        rollout.steps,
        rollout.epochs,
        rollout.minibatches,
        rollout.td_lambda,
        c.optimizer.learning_rate,
        c.optimizer.final_learning_rate_fraction,
        c.exploration.epsilon_final,
        c.network.hidden_sizes,
        c.env.reward_scale,
    )
    assert (c.optimizer.name, c.optimizer.max_grad_norm) == ("radam", 10.0)
    assert (c.objective.gamma, c.objective.loss, c.network.layer_norm) == (0.99, "squared", True)


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting(name):
    pinned = json.loads(PINNED.read_text())
    assert json.loads(json.dumps(PRESETS[name]().flat())) == pinned.get(name), (
        "if the change is intended, run python -m tests.presets.pin"
    )


def test_every_preset_is_pinned():
    assert set(classic.PRESETS) == set(CLASSIC)
    assert set(atari.PRESETS) == set(ATARI)
    assert set(minatar.PRESETS) == {f"minatar-{name}" for name in ATARI}
    others = {*CLASSIC, *ATARI, *minatar.PRESETS, "highway", "general"}
    assert set(PRESETS) == others | set(pqn.PRESETS) | set(atari_cpu.PRESETS)
    assert set(PRESETS) == set(json.loads(PINNED.read_text())), "run python -m tests.presets.pin"


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_texts(name):
    assert PRESETS[name]().preset == name
    assert (PRESETS[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("world_size", [1, 2, 64])
def test_presets_update_on_any_number_of_ranks(name, world_size):
    assert PRESETS[name]().planned_updates(world_size) > 0
