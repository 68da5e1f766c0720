"""The rows of `scores.py`: what is trained, by whom, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """Runs of one agent on one task.

    words: arguments of `hvd-dqn train`; or the work of the peer's script, if `library` names whose
    agent it is. protocol: "best" scores fresh episodes of the network that the evaluations every
    `env_steps` / `evaluations` selected, "last" those of the last network. threshold: the return
    that makes a seed a good one. info: a number in the environment's infos, whose
    last value of each episode counts. zoo: the name under which `zoo.py` keeps the first seed's
    policy.
    """

    group: str
    task: str
    agent: str
    env_steps: int
    seeds: int
    words: tuple[str, ...] = ()
    library: str = ""
    script: str = "peer_sb3.py"
    work: Mapping[str, Any] = {}
    evaluations: int = 10
    protocol: str = "best"
    episodes: int = 100
    ranks: int = 1
    threshold: float | None = None
    info: str = ""
    zoo: str = ""


# The thresholds are the scores of rl-baselines3-zoo's DQN, and for CartPole that of Gymnasium.
_CLASSIC = {
    "cartpole": (50_000, 20, 475.0, {1: 10, 2: 20}),
    "acrobot": (100_000, 20, -76.6, {1: 5, 2: 5}),
    "mountaincar": (120_000, 12, -100.8, {1: 5, 2: 5}),
    "lunarlander": (100_000, 20, 154.4, {1: 5, 2: 5}),
}

# The settings of rl-baselines3-zoo for Pendulum-v1, LunarLanderContinuous and HalfCheetah.
_TD3: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [400, 300]},
    "learning_starts": 10_000,
    "train_freq": 1,
    "gradient_steps": 1,
    "learning_rate": 1e-3,
    "action_noise": 0.1,
}
_CONTINUOUS: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "Pendulum-v1": ("Pendulum-v1", {}, 50_000, {"gamma": 0.98, "buffer_size": 200_000}),
    "LunarLander-v3, continuous": (
        "LunarLander-v3",
        {"continuous": True},
        200_000,
        {"gamma": 0.98, "buffer_size": 200_000},
    ),
    "HalfCheetah-v5": ("HalfCheetah-v5", {}, 200_000, {}),
}

_TABULAR = {
    "FrozenLake-v1, not slippery": ("FrozenLake-v1 --env.kwargs.is_slippery false", 50_000),
    "CliffWalking-v1": ("CliffWalking-v1", 50_000),
    "Taxi-v4": ("Taxi-v4", 100_000),
    "Taxi-v4, with its mask": ("Taxi-v4 --env.action-mask info", 100_000),
    "Blackjack-v1": ("Blackjack-v1", 50_000),
    "CartPole-v1": ("CartPole-v1", 50_000),
    "Acrobot-v1": ("Acrobot-v1", 100_000),
}

_MINIGRID = {"MiniGrid-Empty-5x5-v0": 50_000, "MiniGrid-DoorKey-5x5-v0": 200_000}

# rl-baselines3-zoo's settings for Atari, since neither library has any for MinAtar or MiniGrid.
# Learning starts earlier, because the budget is a hundredth of Atari's.
_DQN: dict[str, Any] = {
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "batch_size": 32,
    "train_freq": 4,
    "gradient_steps": 1,
    "target_update_interval": 1_000,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
}

_MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


def rows() -> Iterator[Row]:
    """Yield all rows."""
    yield from _classic()
    yield from _environments()
    yield from _minatar()
    yield from _minatar_at_length()
    yield from _gymnax()
    yield from _pqn_on_cartpole()
    yield from _highway()


def _classic() -> Iterator[Row]:
    group = "classic"
    for preset, (env_steps, evaluations, threshold, seeds) in _CLASSIC.items():
        for ranks, count in seeds.items():
            yield Row(
                group,
                preset,
                "1 rank" if ranks == 1 else f"{ranks} ranks",
                env_steps,
                count,
                (preset,),
                evaluations=evaluations,
                ranks=ranks,
                threshold=threshold,
                zoo=preset if ranks == 2 else "",
            )


def _environments() -> Iterator[Row]:
    group = "environments"
    for task, (words, env_steps) in _TABULAR.items():
        name = task.partition("-v")[0].lower()
        zoo = name if name in ("frozenlake", "cliffwalking") else ""
        yield Row(group, task, "general", env_steps, 3, ("--env.id", *words.split()), zoo=zoo)
    for task, env_steps in _MINIGRID.items():
        zoo = "doorkey" if "DoorKey" in task else ""
        yield Row(group, task, "general", env_steps, 3, ("--env.id", task), zoo=zoo)
        work = {
            "algorithm": "DQN",
            "env_id": task,
            "options": _DQN | {"learning_rate": 1e-4, "exploration_fraction": 0.2},
        }
        yield Row(group, task, "SB3 DQN", env_steps, 3, library="Stable-Baselines3", work=work)
    for task, (env_id, kwargs, env_steps, changes) in _CONTINUOUS.items():
        words = ["--env.id", env_id]
        for name, value in kwargs.items():
            words += [f"--env.kwargs.{name}", str(value)]
        zoo = "" if env_id == "HalfCheetah-v5" else env_id.partition("-v")[0].lower()
        zoo += "-continuous" if kwargs else ""
        yield Row(group, task, "general", env_steps, 5, tuple(words), zoo=zoo)
        work = {
            "algorithm": "TD3",
            "env_id": env_id,
            "env_kwargs": kwargs,
            "options": _TD3 | changes,
        }
        yield Row(group, task, "SB3 TD3", env_steps, 5, library="Stable-Baselines3", work=work)
    task = "HalfCheetah-v5"
    yield Row(group, task, "general", 1_000_000, 5, ("--env.id", task), zoo="halfcheetah")


def _minatar() -> Iterator[Row]:
    """Fifty thousand steps of the games with their reduced action sets."""
    env_steps = 50_000
    for game in _MINATAR:
        once: dict[str, Any] = {"evaluations": 1, "protocol": "last", "episodes": 50}
        env_id = f"MinAtar/{game}-v1"
        decay = ("--exploration.epsilon-decay-env-steps", str(env_steps // 10))
        for agent in ("dqn", "rainbow", "m-iqn"):
            words = (f"minatar-{agent}", "--env.id", env_id, *decay)
            yield Row("minatar-50k", game, words[0], env_steps, 3, words, **once)
        work: dict[str, Any] = {"algorithm": "DQN", "env_id": env_id}
        work["options"] = _DQN | {"learning_rate": 1e-4}
        once["library"] = "Stable-Baselines3"
        yield Row("minatar-50k", game, "SB3 DQN", env_steps, 3, work=work, **once)
        work = {"algorithm": "QRDQN", "env_id": env_id}
        work["options"] = _DQN | {"policy_kwargs": {"n_quantiles": 200}}
        once["library"] = "sb3-contrib"
        yield Row("minatar-50k", game, "SB3 QR-DQN", env_steps, 3, work=work, **once)


def _minatar_at_length() -> Iterator[Row]:
    """Ten million steps of the games as published: six actions, sticky ones."""
    for game in _MINATAR:
        words = ("minatar-pqn", "--env.id", f"MinAtar/{game}-v0")
        zoo = f"minatar-{game.lower()}"
        yield Row("minatar", game, "minatar-pqn", 10_000_000, 5, words, evaluations=20, zoo=zoo)


def _gymnax() -> Iterator[Row]:
    """Ten million steps of the games as gymnax plays them, beside the authors' code."""
    rest: dict[str, Any] = {"evaluations": 20, "protocol": "last"}
    for game in ("Asterix", "Breakout", "Freeway", "SpaceInvaders"):
        name = f"{game}-MinAtar"
        words = ("minatar-pqn", "--env.id", f"gymnax:{name}")
        yield Row("gymnax", game, "minatar-pqn", 10_000_000, 5, words, **rest)
        peer: dict[str, Any] = {"library": "purejaxql", "script": "peer_purejaxql.py"}
        yield Row("gymnax", game, "purejaxql", 10_000_000, 2, work={"env_id": name}, **peer, **rest)


# CleanRL's defaults for its PQN on CartPole.
_CLEANRL = """
    cartpole-pqn --env.num-envs 4 --env.reward-scale 1 --network.hidden-sizes 120 84
    --rollout.steps 128 --rollout.minibatches 4 --rollout.td-lambda 0.65
    --optimizer.learning-rate 2.5e-4 --exploration.epsilon-final 0.05
    --exploration.epsilon-decay-env-steps 250000
"""


def _pqn_on_cartpole() -> Iterator[Row]:
    """PQN with the authors' settings and with CleanRL's, beside CleanRL."""
    rest: dict[str, Any] = {"evaluations": 20, "protocol": "last"}
    group, task, env_steps = "cartpole-pqn", "CartPole-v1", 500_000
    words = ("cartpole-pqn",)
    yield Row(group, task, words[0], env_steps, 5, words, zoo=words[0], **rest)
    words = tuple(_CLEANRL.split())
    yield Row(group, task, "cartpole-pqn, CleanRL's settings", env_steps, 5, words, **rest)
    work = {"env_id": task, "options": {"num-envs": 4}}
    peer: dict[str, Any] = {"library": "cleanrl", "script": "peer_cleanrl.py", "work": work}
    yield Row(group, task, "CleanRL PQN", env_steps, 5, **peer, **rest)


# The DQN example in highway-env's documentation.
_HIGHWAY: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [256, 256]},
    "learning_rate": 5e-4,
    "buffer_size": 15_000,
    "learning_starts": 200,
    "batch_size": 32,
    "gamma": 0.8,
    "train_freq": 1,
    "gradient_steps": 1,
    "target_update_interval": 50,
}


def _highway() -> Iterator[Row]:
    """Driving, beside the example of the environment's authors."""
    task, env_steps = "highway-fast-v0", 20_000
    rest: dict[str, Any] = {"evaluations": 5, "protocol": "last", "info": "crashed"}
    yield Row("highway", task, "highway", env_steps, 5, ("highway",), **rest)
    work = {"algorithm": "DQN", "env_id": task, "options": _HIGHWAY}
    rest["library"] = "Stable-Baselines3"
    yield Row("highway", task, "SB3 DQN", env_steps, 5, work=work, **rest)
