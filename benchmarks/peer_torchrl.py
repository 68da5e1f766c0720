"""TorchRL's DQN loss, collector and buffer, in the loop of its documentation.

    python benchmarks/peer_torchrl.py '{"env_id": "CartPole-v1", …}'

The argument is `compare.WORK`. `compare.py` runs this in the peers' Python.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import MLP, EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, HardUpdate


def main(work: dict[str, Any]) -> None:
    """Train; prints the env steps per second of each record as JSON."""
    torch.set_num_threads(1)

    def make() -> Any:
        return GymEnv(work["env_id"], categorical_action_encoding=True)

    count = work["num_envs"]
    envs = make() if count == 1 else SerialEnv(count, make)
    spec = make().action_spec
    net = MLP(
        in_features=4,
        out_features=2,
        num_cells=work["hidden_sizes"],
        activation_class=torch.nn.ReLU,
    )
    actor = QValueActor(net, in_keys=["observation"], spec=spec)
    exploring = TensorDictSequential(
        actor,
        EGreedyModule(
            spec, eps_init=1.0, eps_end=0.04, annealing_num_steps=work["total_env_steps"] // 6
        ),
    )
    loss_module = DQNLoss(actor, loss_function="smooth_l1", delay_value=True)
    loss_module.make_value_estimator(gamma=work["gamma"])
    target = HardUpdate(loss_module, value_network_update_interval=work["target_period_updates"])
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=work["learning_rate"])
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(work["capacity"]), batch_size=work["batch_size"]
    )
    collector = Collector(
        envs,
        exploring,
        frames_per_batch=work["round_env_steps"],
        total_frames=work["total_env_steps"],
        init_random_frames=work["learning_starts"],
    )

    def update(batch: Any) -> None:
        loss = loss_module(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loss_module.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()

    if work["compile"]:
        update = torch.compile(update)
    env_steps = 0
    times: list[tuple[int, float]] = []
    for data in collector:
        env_steps += data.numel()
        buffer.extend(data.reshape(-1))
        if env_steps <= work["learning_starts"]:
            continue
        for _ in range(work["round_updates"]):
            update(buffer.sample())
            target.step()
        exploring[1].step(data.numel())
        if not times or env_steps >= times[-1][0] + work["record_env_steps"]:
            times.append((env_steps, time.perf_counter()))
    collector.shutdown()
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(times[1:])]
    print(json.dumps({"env_steps_per_second": rates}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
