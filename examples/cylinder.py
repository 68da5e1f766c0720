"""An environment that is an MPI program: less drag behind a cylinder, by two jets on it.

    mpirun -np 5 hvd-dqn train cartpole --env.id examples.cylinder:Cylinder \
      --env.num-envs 2 --env.ranks-per-env 2 …               (the whole command: examples/README.md)
    mpirun -np 2 python examples/cylinder.py                  the uncontrolled flow, and its speed
    mpirun -np 2 python examples/cylinder.py runs/cylinder    the flow that a run's network controls

The task is that of Rabault et al. 2019 (J. Fluid Mech. 865), coarser: a channel with a cylinder at
a Reynolds number of 100, whose wake sheds vortices. Jets at its top and bottom blow and suck the
same amount, and a policy that sees the pressure at probes chooses it. Actions are discrete here.

The flow is computed by the lattice-Boltzmann method (D2Q9, regularized) on a grid that
the M ranks of `comm` divide along the channel. Each step exchanges one column with both neighbours.
Every sum over ranks adds the same numbers in the same order, so that the results do not depend on
M, bit for bit.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

# Directions of D2Q9, their weights, and the opposite of each.
CX = np.array([0, 1, 0, -1, 0, 1, -1, -1, 1])
CY = np.array([0, 0, 1, 0, -1, 1, 1, -1, -1])
WEIGHT = np.array([4 / 9, *[1 / 9] * 4, *[1 / 36] * 4])
OPPOSITE = np.array([0, 3, 4, 1, 2, 7, 8, 5, 6])
REYNOLDS, TOP_SPEED = 100.0, 0.1
MEAN_SPEED = TOP_SPEED * 2 / 3  # of a parabola
STRENGTHS = (-1.0, 0.0, 1.0)  # of the jets, by action
JET_SPEED, JET_DELAY = 0.15 * TOP_SPEED, 0.05
LIFT_COST = 0.2


class Flow:
    """The flow on this rank's columns of the grid; the first and the last are the neighbours'."""

    def __init__(self, comm: Any, diameter: int) -> None:
        """`diameter`: of the cylinder, in cells. The channel is 16 diameters long and 4.1 wide."""
        self.comm, self.diameter = comm, diameter
        columns, self.rows = 16 * diameter, round(4.1 * diameter) + 2
        first, self.last = _share(columns, comm.size, comm.rank)
        self.first, self.count = first, self.last - first
        self.columns = columns
        x = np.arange(first - 1, self.last + 1)[:, None]
        y = np.arange(self.rows)[None, :]
        centre = 4 * diameter, (self.rows - 1) / 2 - 0.05 * diameter
        dx, dy = x - centre[0], y - centre[1]
        cylinder = dx**2 + dy**2 <= (diameter / 2) ** 2
        solid = cylinder | (y == 0) | (y == self.rows - 1)
        jet = cylinder & (np.abs(dx) <= max(1.0, 0.15 * diameter))
        across = (y - 0.5) / (self.rows - 2) * np.ones((self.count + 2, 1))
        self.inflow = np.where(solid, 0.0, 4 * TOP_SPEED * across * (1 - across))
        # Links from fluid to solid cells, by direction: what goes out comes back along them.
        self.links, self.wall, self.jet = [], [], []
        for cx, cy in zip(CX, CY, strict=True):
            ahead = [np.roll(field, (-cx, -cy), (0, 1)) for field in (solid, cylinder, jet)]
            inner = ~solid
            inner[[0, -1]] = False
            cells = np.nonzero(inner & ahead[0])
            self.links.append(cells)
            self.wall.append(ahead[1][cells])
            self.jet.append(ahead[2][cells].astype(float))
        self.solid = solid
        viscosity = MEAN_SPEED * diameter / REYNOLDS
        self.kept = 1 - 1 / (3 * viscosity + 0.5)
        kick = 1e-2 * np.sin(2 * np.pi * x / (4 * diameter)) * (self.inflow > 0)
        self.f = _equilibrium(np.ones_like(self.inflow), self.inflow, TOP_SPEED * kick)
        self.force = np.zeros(2)

    def advance(self, jet_speed: float) -> None:
        """Take one time step, and compute the force on the cylinder."""
        f, inner = self.f, slice(1, -1)
        density = f.sum(0)
        u = (f[1] + f[5] + f[8] - f[3] - f[6] - f[7]) / density
        v = (f[2] + f[5] + f[6] - f[4] - f[7] - f[8]) / density
        calm = _equilibrium(density, u, v)
        # Of the rest, only the stress is kept, for stability (Latt and Chopard 2006).
        rest = f - calm
        corners = rest[5] + rest[6] + rest[7] + rest[8]
        xx, yy = rest[1] + rest[3] + corners, rest[2] + rest[4] + corners
        xy = rest[5] - rest[6] + rest[7] - rest[8]
        f = calm
        for i in range(9):
            stress = (CX[i] ** 2 - 1 / 3) * xx + (CY[i] ** 2 - 1 / 3) * yy + 2 * CX[i] * CY[i] * xy
            f[i] += self.kept * 4.5 * WEIGHT[i] * stress
        self._exchange(f)
        new = f.copy()
        for i, (cx, cy) in enumerate(zip(CX, CY, strict=True)):
            columns = f[i, 1 - cx : 1 - cx + self.count]
            new[i, inner] = np.roll(columns, cy, 1) if cy else columns
        pushes = []
        for i in range(1, 9):
            cells = self.links[i]
            out = f[i][cells]
            back = out - 6 * WEIGHT[i] * CY[i] * jet_speed * self.jet[i]
            new[OPPOSITE[i]][cells] = back
            pushes.append(((out + back) * self.wall[i], cells[0]))
        if self.first == 0:
            new[:, 1] = _equilibrium(density[2], self.inflow[1], np.zeros(self.rows))
        if self.last == self.columns:
            new[:, -2] = new[:, -3]
        self.f = new
        self.force = self._force(pushes)

    def probe(self, where: np.ndarray) -> np.ndarray:
        """Return the density, that is the pressure, in the cells `where` [P, 2]."""
        mine = (where[:, 0] >= self.first) & (where[:, 0] < self.last)
        seen = np.zeros(len(where))
        columns = where[mine, 0] - self.first + 1
        seen[mine] = self.f[:, columns, where[mine, 1]].sum(0)
        everyone = np.empty_like(seen)
        self.comm.Allreduce(seen, everyone)  # each number is one rank's
        return everyone

    def _exchange(self, f: np.ndarray) -> None:
        """Send the outer columns to the neighbours, and receive theirs."""
        comm, size = self.comm, self.comm.size
        if size == 1:
            return
        left = comm.rank - 1 if comm.rank > 0 else -2  # MPI.PROC_NULL in every MPI's mpi4py
        right = comm.rank + 1 if comm.rank < size - 1 else -2
        for to, column, source, ghost in ((left, 1, right, -1), (right, -2, left, 0)):
            received = np.empty_like(f[:, 0])
            requests = []
            if source >= 0:
                requests.append(comm.Irecv(received, source))
            if to >= 0:
                requests.append(comm.Isend(np.ascontiguousarray(f[:, column]), to))
            for request in requests:
                request.Wait()
            if source >= 0:
                f[:, ghost] = received

    def _force(self, pushes: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return drag and lift: the momentum that the links to the cylinder exchange. It is summed
        by column first, so that it does not depend on where the grid is divided.
        """
        by_column = np.zeros((2, self.columns))
        for i, (push, columns) in enumerate(pushes, start=1):
            total = np.bincount(columns - 1, push, self.count)
            by_column[0, self.first : self.last] += CX[i] * total
            by_column[1, self.first : self.last] += CY[i] * total
        everyone = np.empty_like(by_column)
        self.comm.Allreduce(by_column, everyone)  # each column is one rank's
        return everyone.sum(1) / (MEAN_SPEED**2 * self.diameter / 2)


class Cylinder(gym.Env[np.ndarray, np.int64]):
    """The flow with two jets. The observation has the pressure at 24 probes and the jets' speed.
    The reward is how far the drag coefficient, as the mean of a step, is below `baseline`, minus a
    fifth of the lift's. Every rank of `comm` makes one, and all call it together.
    """

    def __init__(
        self, comm: Any, diameter: int = 10, developed: int = 80, baseline: float = 3.7
    ) -> None:
        """`diameter`: in cells; `developed`: the time before the first episode, in diameters at the
        top speed; `baseline`: the drag coefficient that counts as zero.
        """
        self.action_space = gym.spaces.Discrete(len(STRENGTHS))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (25,), np.float32)
        self._flow = Flow(comm, diameter)
        self._baseline = baseline
        self._unit = round(diameter / TOP_SPEED)  # the time steps of one diameter
        self._jet = 0.0
        places = [(x, y) for x in (3, 4.8, 5.5, 6.5, 8, 10) for y in (-1.2, -0.4, 0.4, 1.2)]
        middle = (self._flow.rows - 1) / 2
        self._probes = np.array(
            [(round(x * diameter), round(middle + y * diameter)) for x, y in places]
        )
        for _ in range(developed * self._unit):
            self._flow.advance(0.0)
        self._start = self._flow.f.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start at a random phase of the shedding."""
        super().reset(seed=seed)
        self._flow.f, self._jet, self._steps = self._start.copy(), 0.0, 0
        for _ in range(int(self.np_random.integers(3 * self._unit))):
            self._flow.advance(0.0)
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Let the jets approach a strength for a quarter of a diameter's time."""
        forces = []
        for _ in range(self._unit // 4):
            self._jet += JET_DELAY * (JET_SPEED * STRENGTHS[int(action)] - self._jet)
            self._flow.advance(self._jet)
            forces.append(self._flow.force)
        drag, lift = np.mean(forces, 0)
        self._steps += 1
        reward = float(self._baseline - drag - LIFT_COST * abs(lift))
        facts = {"drag": float(drag), "lift": float(lift)}
        return self._observation(), reward, False, self._steps >= 80, facts

    def save(self, path: str) -> None:
        """Write this rank's part of the state into the directory `path`."""
        flow = self._flow
        np.savez(_file(path, flow), f=flow.f, jet=self._jet, steps=self._steps)

    def load(self, path: str) -> None:
        """Restore what `save` wrote."""
        with np.load(_file(path, self._flow)) as saved:
            self._flow.f = saved["f"]
            self._jet, self._steps = float(saved["jet"]), int(saved["steps"])

    def _observation(self) -> np.ndarray:
        pressure = (self._flow.probe(self._probes) - 1) / TOP_SPEED**2
        return np.append(pressure, self._jet / JET_SPEED).astype(np.float32)


def _file(path: str, flow: Flow) -> Path:
    return Path(path, f"rank-{flow.comm.rank}-of-{flow.comm.size}.npz")


def _share(count: int, parts: int, number: int) -> tuple[int, int]:
    """Return the first and the end of part `number` of `count` columns."""
    return count * number // parts, count * (number + 1) // parts


def _equilibrium(density: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    square = 1 - 1.5 * (u * u + v * v)
    values = np.empty((9, *density.shape))
    for i in range(9):
        along = 3 * (CX[i] * u + CY[i] * v)
        values[i] = WEIGHT[i] * density * (square + along + 0.5 * along * along)
    return values


def main() -> None:
    """Print drag, lift and speed of an episode: of the uncontrolled flow, or, with the directory of
    a run, of the flow that its network controls.
    """
    from mpi4py import MPI

    import hvd_dqn

    policy = hvd_dqn.load_policy(sys.argv[1]) if len(sys.argv) > 1 else None
    env, comm = Cylinder(MPI.COMM_WORLD), MPI.COMM_WORLD
    obs, _ = env.reset(seed=0)
    began, forces = time.perf_counter(), []
    for _ in range(80):
        action = 1 if policy is None else policy.act(obs)  # the same on every rank
        obs, _, _, _, facts = env.step(np.int64(action))
        forces.append((facts["drag"], facts["lift"]))
    seconds = time.perf_counter() - began
    drag, lift = np.array(forces[20:]).T  # of the settled flow
    if comm.rank == 0:
        print(
            f"{comm.size} ranks: {80 / seconds:.1f} env steps/s; drag {drag.mean():.3f}, "
            f"lift from {lift.min():.2f} to {lift.max():.2f}"
        )


if __name__ == "__main__":
    main()
