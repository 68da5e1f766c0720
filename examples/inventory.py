"""An environment of your own: how much to order for a shop, every evening for a hundred days.

    python examples/inventory.py                               one process
    horovodrun -np 4 python examples/inventory.py              four ranks
    hvd-dqn train cartpole --env.id examples.inventory:Inventory-v0     by the command line

An environment is ready for hvd_dqn once it is registered with Gymnasium: discrete actions, a Box of
numbers to observe. `module:Name-v0` as its id lets every rank, and whoever loads the policy later,
import it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import hvd_dqn

DAYS, SHELF, ORDERS, LEAD_DAYS = 100, 40, (0, 5, 10, 15, 20), 2
PRICE, COST, FREIGHT, STORING, MISSED = 4.0, 2.0, 3.0, 0.1, 1.0
MEAN_DEMAND = 6.0


class Inventory(gym.Env[np.ndarray, np.int64]):
    """Observes the shelf, what is on its way, and the day, each as a share of its greatest value.
    Goods ordered tonight arrive `LEAD_DAYS` later; what does not fit is lost, and so is a customer
    who finds nothing. The reward is a day's profit.
    """

    def __init__(self) -> None:
        """Say what can be done and seen."""
        self.action_space = gym.spaces.Discrete(len(ORDERS))
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2 + LEAD_DAYS,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A half-full shelf."""
        super().reset(seed=seed)
        self._day, self._stock = 0, SHELF // 2
        self._coming = [0] * LEAD_DAYS
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Order, sell for a day, take in what arrives."""
        order = ORDERS[int(action)]
        demand = int(self.np_random.poisson(MEAN_DEMAND))
        sold = min(demand, self._stock)
        arrived, *later = [*self._coming, order]
        self._coming = later
        self._stock = min(SHELF, self._stock - sold + arrived)
        self._day += 1
        profit = PRICE * sold - COST * order - FREIGHT * (order > 0)
        profit -= STORING * self._stock + MISSED * (demand - sold)
        # The shop stays open after the last day that is counted: a time limit, no end.
        return self._observation(), float(profit), False, self._day == DAYS, {}

    def _observation(self) -> np.ndarray:
        shares = [self._stock / SHELF, *(c / max(ORDERS) for c in self._coming), self._day / DAYS]
        return np.array(shares, dtype=np.float32)


if "Inventory-v0" not in gym.registry:
    gym.register("Inventory-v0", entry_point=Inventory)


def main() -> None:
    """Train, and say what the policy orders."""
    changes = {
        "env.id": "examples.inventory:Inventory-v0",
        "total_env_steps": int(sys.argv[1]) if len(sys.argv) > 1 else 60_000,
        "objective.gamma": 0.97,
        "optimizer.learning_rate": 5e-4,
    }
    run = hvd_dqn.train("cartpole", changes)
    if run.summary is None:
        return
    policy = run.policy()
    for stock in (0, 10, 20, 30):
        order = ORDERS[int(policy.act(np.array([stock / SHELF, 0, 0, 0.5])))]
        print(f"{stock:2} on the shelf, nothing on its way: order {order}")


if __name__ == "__main__":
    main()
