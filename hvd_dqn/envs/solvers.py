"""Environments on solver ranks, as a learner sees them; `envs/serving.py` is the other side.

A command goes to all ranks of a group, and every one of them answers it: rank 0 of the group with
the observation, the others that they have done it. A rank whose environment raises answers with the
error, while others may wait for it in a collective of the environment, which MPI cannot interrupt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.distributed.solvers import SolverLink, SolverPlace, solver_link
from hvd_dqn.envs.family import Made
from hvd_dqn.envs.interface import (
    SECONDS_TO_CLOSE,
    EnvironmentFailedError,
    GroupLostError,
    InterfaceError,
    Place,
    warn,
)
from hvd_dqn.envs.saving import Files, pack_files, unpack_files
from hvd_dqn.envs.simulators import GymnasiumSimulators, SimulatorStep
from hvd_dqn.envs.workers import RemoteTracebackError
from hvd_dqn.spaces.description import actions_of, observations_of

_SECONDS_AFTER_ERROR = 5.0
"""How long the other ranks of a group may take to answer after one of them has raised."""
_RESET_STEPS = 10
"""A reset or a construction may take this many times as long as a step."""


class _Failure(NamedTuple):
    """What a rank's environment raised, its traceback, and whether it is a `UserError`."""

    number: int
    line: str
    trace: str
    is_user_error: bool


Answers = dict[tuple[int, int], tuple[Any, memoryview]]
"""What each rank answered, by group and its number in it."""


Payloads = dict[tuple[int, int], tuple[list[Any], bytes]]
"""Likewise: what a command has for single ranks alone, as JSON and bytes."""


class Groups:
    """The N groups of a learner, which do the same command at the same time."""

    def __init__(
        self, link: SolverLink, places: Sequence[Place], on_wait: Callable[[], None]
    ) -> None:
        self._link = link
        self._places = places
        self._on_wait = on_wait
        self._number = 0

    def ask(
        self,
        commands: dict[int, list[Any]],
        *,
        seconds: float,
        payloads: Payloads | None = None,
    ) -> Answers:
        """Send a command to each of these groups, and return the answers of all. `payloads`: what
        single ranks receive behind it.

        Raises `GroupLostError` if a group takes longer than `seconds` (0: no limit), and
        `EnvironmentFailedError` or `UserError` if an environment raised.
        """
        number = self.begin(commands, payloads)
        waiting = {
            place.rank: (group, n)
            for group in commands
            for n, place in enumerate(self._link.groups[group])
        }
        answers: Answers = {}
        failures: dict[int, _Failure] = {}
        deadlines = dict.fromkeys(commands, time.monotonic() + (seconds or math.inf))
        while waiting:
            group = min((group for group, _ in waiting.values()), key=deadlines.__getitem__)
            message = self._link.mailbox.wait(deadlines[group], self._on_wait)
            if message is None:
                silent = [n for its, n in waiting.values() if its == group]
                raise self._lost(group, silent, commands[group][0], seconds, failures.get(group))
            rank, (answered, kind, *facts), payload = message
            if answered != number:
                continue  # of a command that was given up
            group, n = waiting.pop(rank)
            if kind == "failed":
                failures.setdefault(group, _Failure(n, *facts))
                deadlines[group] = min(deadlines[group], time.monotonic() + _SECONDS_AFTER_ERROR)
            else:
                answers[group, n] = facts, payload
        for group, failure in sorted(failures.items()):
            told = self._told(group, failure)
            error = UserError if failure.is_user_error else EnvironmentFailedError
            raise error(told) from RemoteTracebackError(failure.trace)
        return answers

    def begin(self, commands: dict[int, list[Any]], payloads: Payloads | None = None) -> int:
        """Send a command to each of these groups, and return its number."""
        self._number += 1
        for group, command in commands.items():
            for n, place in enumerate(self._link.groups[group]):
                facts, behind = (payloads or {}).get((group, n), ([], b""))
                self._link.mailbox.send(place.rank, [self._number, *command, *facts], behind)
        return self._number

    def _told(self, group: int, failure: _Failure) -> str:
        ranks = self._link.groups[group]
        where = ranks[failure.number]
        return (
            f"{self._places[group]}, solver rank {failure.number} of {len(ranks)} (rank "
            f"{where.rank} of the job, on {where.host}): {failure.line}"
        )

    def _lost(
        self,
        group: int,
        silent: list[int],
        command: str,
        seconds: float,
        failure: _Failure | None,
    ) -> GroupLostError:
        """Return the error of a group of which the ranks `silent` do not answer."""
        named = _named([self._link.groups[group][n] for n in silent])
        if failure is not None:
            error = GroupLostError(
                f"{self._told(group, failure)}; {named} did not return from {command}() within "
                f"{_SECONDS_AFTER_ERROR:g} s after that, so the environment cannot be made again"
            )
            error.__cause__ = RemoteTracebackError(failure.trace)
            return error
        limits = {"step": "env.step-seconds", "close": "the time that closing may take"}
        limit = limits.get(command, f"{_RESET_STEPS} times env.step-seconds")
        return GroupLostError(
            f"{self._places[group]}: {named} did not return from {command}() within {seconds:g} s "
            f"({limit})"
        )


def _named(places: Sequence[SolverPlace]) -> str:
    """Name ranks of the job and their hosts."""
    hosts = ", ".join(dict.fromkeys(place.host for place in places))
    ranks = ", ".join(str(place.rank) for place in places)
    return f"rank{'s' if len(places) > 1 else ''} {ranks} of the job (on {hosts})"


class SolverSimulators(GymnasiumSimulators):
    """Environments on solver ranks."""

    def __init__(
        self, groups: Groups, link: SolverLink, declared: Any, step_seconds: float
    ) -> None:
        """`declared`: what rank 0 of the first group says of its environment."""
        super().__init__(
            len(link.groups),
            actions_of(declared["action"]),
            observations_of(declared["observation"]),
        )
        self.lets_others_run = link.lets_others_run
        self.saves_states: bool = declared["saves"]
        self._size = len(link.groups[0])
        self._names: list[str] | None = declared["names"]
        self._groups = groups
        self._step_seconds = step_seconds
        space = self.raw_space
        self._obs = np.zeros((self.num_envs, *space.shape), dtype=space.dtype)

    def reset(self, chosen: np.ndarray, seeds: list[int]) -> np.ndarray:
        """See `Simulators`."""
        copies = chosen.nonzero()[0].tolist()
        commands = {copy: ["reset", seed] for copy, seed in zip(copies, seeds, strict=True)}
        answers = self._groups.ask(commands, seconds=_RESET_STEPS * self._step_seconds)
        return self._frames(answers)

    def step(self, action: np.ndarray) -> SimulatorStep:
        """See `Simulators`."""
        chosen = (action + self._first_action).tolist()
        answers = self._groups.ask(
            {copy: ["step", one] for copy, one in enumerate(chosen)}, seconds=self._step_seconds
        )
        outcomes = [answers[copy, 0][0] for copy in range(self.num_envs)]
        reward = np.array([outcome[0] for outcome in outcomes], dtype=np.float64)
        terminated = np.array([outcome[1] for outcome in outcomes], dtype=np.bool_)
        truncated = np.array([outcome[2] for outcome in outcomes], dtype=np.bool_)
        ended = terminated | truncated
        return SimulatorStep(self._frames(answers), reward, terminated, truncated, ended)

    def save_states(self) -> list[Files]:
        """See `SavesStates`. A file's name begins with its rank in the group and their number."""
        seconds = _RESET_STEPS * self._step_seconds
        commands: dict[int, list[Any]] = {copy: ["save"] for copy in range(self.num_envs)}
        answers = self._groups.ask(commands, seconds=seconds)
        states: list[Files] = [{} for _ in range(self.num_envs)]
        for (copy, n), (facts, payload) in sorted(answers.items()):
            for name, contents in unpack_files(facts[0], payload).items():
                states[copy][f"{n}-of-{self._size}:{name}"] = contents
        return states

    def load_states(self, states: list[Files], steps: list[int]) -> None:
        """See `SavesStates`. Raises `InterfaceError` if groups had another number of ranks."""
        payloads: Payloads = {}
        for copy, files in enumerate(states):
            by_rank: dict[int, Files] = {}
            for name, contents in files.items():
                rank, _, own = name.partition(":")
                number, _, size = rank.partition("-of-")
                if int(size) != self._size:
                    raise InterfaceError(
                        f"it was saved on {size} ranks, and the environment has {self._size} now"
                    )
                by_rank.setdefault(int(number), {})[own] = contents
            for n in range(self._size):
                payloads[copy, n] = pack_files(by_rank.get(n, {}))
        self._groups.ask(
            {copy: ["load", taken] for copy, taken in enumerate(steps)},
            seconds=_RESET_STEPS * self._step_seconds,
            payloads=payloads,
        )

    def _frames(self, answers: Answers) -> np.ndarray:
        """Return the frames of all copies, in new memory."""
        shape, dtype = self.raw_space.shape, self.raw_space.dtype
        for (copy, n), (_, payload) in answers.items():
            if n == 0:
                self._obs[copy] = np.frombuffer(payload, dtype=dtype).reshape(shape)
        frames: np.ndarray = self._obs.copy()
        return frames

    def _draw(self) -> Any:
        raise NotImplementedError("environments with env.ranks-per-env are not drawn")

    def action_names(self) -> list[str] | None:
        """See `Simulators`."""
        return self._names

    def close(self, *, broken: bool = False) -> None:
        """See `Simulators`. The ranks stay, for other environments."""
        commands: dict[int, list[Any]] = {copy: ["close"] for copy in range(self.num_envs)}
        if broken:
            self._groups.begin(commands)
            return
        try:
            self._groups.ask(commands, seconds=SECONDS_TO_CLOSE)
        except (EnvironmentFailedError, UserError) as error:
            warn(str(error))


def make_solver_simulators(
    config: EnvConfig, places: Sequence[Place], *, pictures: bool, on_wait: Callable[[], None]
) -> Made:
    """Return one environment on each group of solver ranks of this process. `on_wait` is called
    while it waits for them.

    Raises `UserError` if the environments cannot be made, or if this process has no solver ranks.
    """
    link = solver_link()
    if link is None or len(link.groups) != len(places) or pictures:
        raise UserError(
            f"env.ranks-per-env = {config.ranks_per_env}: these environments run on solver ranks "
            "of a training or of hvd-dqn evaluate, one for each group",
            "other commands cannot make them",
        )
    groups = Groups(link, places, on_wait)
    settings = asdict(config)
    commands = {copy: ["make", settings, list(place)] for copy, place in enumerate(places)}
    answers = groups.ask(commands, seconds=_RESET_STEPS * config.step_seconds)
    declared = [answers[copy, 0][0][0] for copy in range(len(places))]
    for place, other in zip(places, declared, strict=True):
        for kind in ("observation", "action"):
            if other[kind] != declared[0][kind]:
                raise UserError(
                    f"env.id {config.id!r}, {place}: its {kind} space is not that of the first "
                    "copy; all copies need the same spaces"
                )
    simulators = SolverSimulators(groups, link, declared[0], config.step_seconds)
    limits_itself = declared[0]["limits_itself"]
    return Made(simulators, lambda steps: None if limits_itself else steps)
