"""Greedy episodes of a finished run's best network."""

from __future__ import annotations

from pathlib import Path

import torch

from hvd_dqn.actor import GreedyPolicy
from hvd_dqn.command_line import load_config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement
from hvd_dqn.distributed.connect import compute_threads
from hvd_dqn.distributed.devices import select_device
from hvd_dqn.evaluation import AFTERWARDS, EvaluationResult, Evaluator
from hvd_dqn.networks import make_network
from hvd_dqn.resources import useful_threads
from hvd_dqn.run_directory import RunDirectory
from hvd_dqn.saved_networks import NetworkDirectory, SavedNetwork, load_network


def evaluate_run(
    path: Path, episodes: int, seed: int, communicator: Communicator
) -> tuple[SavedNetwork, EvaluationResult]:
    """Play `episodes` over all ranks with the best checkpoint under `path`. Collective; `UserError`
    on all ranks or none.
    """
    run_dir = RunDirectory(path)
    with agreement(communicator):
        config = load_config(run_dir.config_file)
    env_threads = compute_threads(communicator, config.env.num_envs)
    with agreement(communicator):
        saved = NetworkDirectory(run_dir.networks).best()
        device = select_device(config.device, communicator.local_rank)
        evaluator = Evaluator(
            config.env,
            config.evaluation,
            seed=seed,
            communicator=communicator,
            threads=env_threads,
        )
        network = make_network(
            config.network,
            config.objective,
            obs_space=evaluator.envs.obs_space,
            num_actions=evaluator.envs.num_actions,
            device=device,
        )
        load_network(network, saved)
        useful = useful_threads(config, evaluator.envs)
    torch.set_num_threads(compute_threads(communicator, useful))
    try:
        policy = GreedyPolicy(network, device)
        result = evaluator.evaluate(policy, episodes=episodes, purpose=AFTERWARDS)
        assert result is not None, "nobody asks an evaluation of its own to stop"
        return saved, result
    finally:
        evaluator.close()
