"""A custom environment: how much a shop orders every evening, for a hundred days.

    python examples/inventory.py                               one process
    horovodrun -np 4 python examples/inventory.py              four ranks
    hvd-dqn train --env.id examples.inventory:Inventory-v0     from the command line

hvd_dqn can train on any environment that is registered with Gymnasium and has discrete actions and
Box observations. With the id `module:Name-v0`, every rank imports the module before it creates the
environment.
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
    """A shop with limited shelf space and delayed deliveries.

    The observation is the stock, the orders on their way and the day, each divided by its maximum.
    Goods arrive `LEAD_DAYS` after they were ordered. Goods that do not fit on the shelf are lost,
    and so are customers who find it empty. The reward is the day's profit.
    """

    def __init__(self) -> None:
        """Define the action and observation spaces."""
        self.action_space = gym.spaces.Discrete(len(ORDERS))
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2 + LEAD_DAYS,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start with a half-full shelf."""
        super().reset(seed=seed)
        self._day, self._stock = 0, SHELF // 2
        self._coming = [0] * LEAD_DAYS
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Order goods, sell for a day, then receive the day's delivery."""
        order = ORDERS[int(action)]
        demand = int(self.np_random.poisson(MEAN_DEMAND))
        sold = min(demand, self._stock)
        arrived, *later = [*self._coming, order]
        self._coming = later
        self._stock = min(SHELF, self._stock - sold + arrived)
        self._day += 1
        profit = PRICE * sold - COST * order - FREIGHT * (order > 0)
        profit -= STORING * self._stock + MISSED * (demand - sold)
        # The shop does not close after the last day: this is a time limit (truncation), not an end.
        return self._observation(), float(profit), False, self._day == DAYS, {}

    def _observation(self) -> np.ndarray:
        shares = [self._stock / SHELF, *(c / max(ORDERS) for c in self._coming), self._day / DAYS]
        return np.array(shares, dtype=np.float32)


if "Inventory-v0" not in gym.registry:
    gym.register("Inventory-v0", entry_point=Inventory)


def main() -> None:
    """Train, then print what the policy orders."""
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
