"""purejaxql's PQN on gymnax's MinAtar: the score of an agent.

    python benchmarks/peer_purejaxql.py score '{"env_id": "Breakout-MinAtar", …}'

`score` takes the work of a row in `score_rows.py`. `scores.py` runs this in a Python that has
purejaxql. It prints one line of JSON. JAX compiles for one thread.

The settings are those of purejaxql's `pqn_minatar.yaml`, without its evaluations, which triple the
time. The curve is that of the training episodes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import gymnax
import jax
import numpy as np
from purejaxql.pqn_minatar import QNetwork, make_train

SETTINGS: dict[str, Any] = {
    "NUM_ENVS": 128,
    "NUM_STEPS": 32,
    "EPS_START": 1.0,
    "EPS_FINISH": 0.05,
    "EPS_DECAY": 0.1,
    "NUM_MINIBATCHES": 32,
    "NUM_EPOCHS": 2,
    "NORM_TYPE": "layer_norm",
    "LR": 5e-4,
    "MAX_GRAD_NORM": 10,
    "LR_LINEAR_DECAY": True,
    "GAMMA": 0.99,
    "LAMBDA": 0.65,
    "TEST_DURING_TRAINING": False,
    "WANDB_MODE": "disabled",
}


def score(work: dict[str, Any]) -> dict[str, Any]:
    """Train; returns the return of the last network, and the curve of the training episodes."""
    name, env_steps, seed = work["env_id"], work["env_steps"], work["seed"]
    budget = {"TOTAL_TIMESTEPS": env_steps, "TOTAL_TIMESTEPS_DECAY": env_steps, "ENV_NAME": name}
    train = jax.jit(jax.vmap(make_train(SETTINGS | budget)))
    began = time.monotonic()
    outcome = jax.block_until_ready(train(jax.random.split(jax.random.PRNGKey(seed), 1)))
    seconds = time.monotonic() - began
    state = outcome["runner_state"][0]
    returns = play(name, state.params, state.batch_stats, 10_000 + seed, work["episodes"])
    metrics = {key: np.asarray(value)[0] for key, value in outcome["metrics"].items()}
    chosen = np.linspace(0, len(metrics["env_step"]) - 1, work["evaluations"] + 1)[1:].astype(int)
    return {
        "closing_mean": float(np.mean(returns)),
        "closing_std": float(np.std(returns)),
        "curve": [
            [int(metrics["env_step"][i]), round(float(metrics["returned_episode_returns"][i]), 3)]
            for i in chosen
        ],
        "seconds": round(seconds, 1),
    }


def play(name: str, params: Any, statistics: Any, seed: int, episodes: int) -> np.ndarray:
    """Play greedily, each episode to its end; returns the returns [episodes]."""
    env, settings = gymnax.make(name)
    network = QNetwork(action_dim=env.action_space(settings).n, norm_type="layer_norm")
    # `train` has a leading axis of seeds.
    weights = {"params": params, "batch_stats": statistics}
    weights = jax.tree.map(lambda value: value[0], weights)
    keys = jax.random.split(jax.random.PRNGKey(seed), episodes)
    obs, state = jax.vmap(env.reset, (0, None))(keys, settings)

    def step(carry: Any, key: Any) -> Any:
        obs, state, running, total = carry
        action = network.apply(weights, obs, train=False).argmax(-1)
        obs, state, reward, done, _ = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(key, episodes), state, action, settings
        )
        return (obs, state, running & ~done, total + running * reward), None

    steps = jax.random.split(jax.random.PRNGKey(seed + 1), settings.max_steps_in_episode)
    start = (obs, state, np.ones(episodes, bool), np.zeros(episodes))
    (_, _, running, total), _ = jax.jit(lambda *args: jax.lax.scan(step, *args))(start, steps)
    assert not running.any(), "an episode did not end"
    return np.asarray(total)


if __name__ == "__main__":
    what, text = sys.argv[1:]
    print(json.dumps({"score": score}[what](json.loads(text))))
