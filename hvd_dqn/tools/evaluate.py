"""Play episodes with a network of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from hvd_dqn.acting.evaluation import AFTERWARDS, EvaluationResult, Evaluator
from hvd_dqn.acting.exploration import Values, epsilon_greedy
from hvd_dqn.acting.greedy import GreedyPolicy
from hvd_dqn.common import seeding
from hvd_dqn.common.seeding import Stream
from hvd_dqn.config.loading import load_config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.connect import compute_threads
from hvd_dqn.distributed.devices import select_device
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.methods.registry import make_network
from hvd_dqn.networks.saved import NetworkDirectory, SavedNetwork, load_network
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.foreign_code import announce_environment_code, announce_network_code
from hvd_dqn.run.requirements import require_same_spaces, useful_threads
from hvd_dqn.run.spaces import read_spaces


class Play(NamedTuple):
    """What to play: `network` is best, newest or a number of env steps, `episodes` is the number of
    episodes for each of `seeds`, and `epsilon` is the share of random actions.
    """

    network: str = "best"
    episodes: int = 100
    seeds: tuple[int, ...] = (0,)
    epsilon: float = 0.0
    atari_protocol: Literal["machado2018", "mnih2015"] | None = None


def evaluate_run(
    path: Path, play: Play, communicator: Communicator
) -> tuple[SavedNetwork, list[EvaluationResult]]:
    """Play episodes on all ranks with a network of the run at `path`. Return the network and the
    result of each seed. Collective. Raises `UserError` on all ranks or on none.
    """
    run_dir = RunDirectory(path)
    with agreement(communicator):
        run_dir.require_run()
        spaces = read_spaces(run_dir)
        config = spaces.in_config(load_config(run_dir.config_file))
        if play.atari_protocol is not None:
            config = config.changed({"env.atari_protocol": play.atari_protocol})
    env_threads = compute_threads(communicator, config.env.num_envs)
    with agreement(communicator):
        saved = NetworkDirectory(run_dir.networks).find(play.network)
        device = select_device(config.device, communicator.local_rank)
        if communicator.is_root:
            announce_environment_code(config, path)
            announce_network_code(config, path)
        evaluator = Evaluator(
            config.evaluation_env,
            config.evaluation,
            seed=play.seeds[0],
            communicator=communicator,
            threads=env_threads,
            info_keys=config.logging.info_keys,
        )
        if communicator.is_root:
            evaluator.say = _print_progress
        spaces.require(evaluator.envs)
        network = make_network(
            config.network,
            config.objective,
            obs_space=evaluator.envs.obs_space,
            num_actions=evaluator.envs.num_actions,
            branches=evaluator.envs.branches,
            device=device,
        )
        load_network(network, saved)
        useful = useful_threads(config, evaluator.envs)
    require_same_spaces(communicator, evaluator.envs)
    torch.set_num_threads(compute_threads(communicator, useful))
    greedy, results = GreedyPolicy(network, device), []
    try:
        for seed in play.seeds:
            rng = seeding.generator(seed, communicator.rank, Stream.EXPLORATION)
            noisy = _epsilon_greedy_policy(greedy, play.epsilon, evaluator.envs, rng)
            evaluator.seed = seed
            result = evaluator.evaluate(
                noisy if play.epsilon else greedy, episodes=play.episodes, purpose=AFTERWARDS
            )
            assert result is not None, "only a run's evaluations can be asked to stop"
            results.append(result)
        return saved._replace(path=run_dir.as_given(saved.path)), results
    finally:
        evaluator.close()


def _print_progress(line: str) -> None:
    """Print a line of a long evaluation, apart from its result."""
    print(f"hvd-dqn: {line}", file=sys.stderr, flush=True)


def _epsilon_greedy_policy(
    greedy: GreedyPolicy, epsilon: float, envs: VectorEnvironment, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    def act(obs: np.ndarray) -> np.ndarray:
        return epsilon_greedy(
            np.full(len(obs), epsilon),
            envs.num_actions,
            Values(lambda: greedy.values(obs), envs.branches),
            rng,
            legal=envs.legal_actions(obs),
            draws_always=True,
        )

    return act
