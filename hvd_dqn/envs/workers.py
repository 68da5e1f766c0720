"""Environments in processes of their own: Gymnasium's `AsyncVectorEnv` with our worker.

Between processes travel only numbers, arrays and text: of infos, those numbers that the run names,
and an exception is sent as text with its traceback. Pickle could deliver neither in general.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, util
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import write_to_shared_memory

from hvd_dqn.common import signals
from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.envs.infos import InfoNumbers
from hvd_dqn.envs.interface import (
    RAISED,
    SECONDS_TO_CLOSE,
    EnvironmentFailedError,
    InterfaceError,
    Place,
    require_same_spaces,
    require_shape,
    reset_env,
    step_env,
    told,
    warn,
)

_SECONDS_FOR_TEXT = 10.0


class Copy:
    """Makes one copy of an environment in the process that calls it.

    `AsyncVectorEnv` calls the first one also in this process, for its spaces; it gets those of
    `probe`, so that no simulator starts here.
    """

    def __init__(
        self, make: Callable[[], gym.Env[Any, Any]], probe: gym.Env[Any, Any] | None = None
    ) -> None:
        self._make = make
        self._declared = None if probe is None else _Declared(probe)

    def __call__(self) -> gym.Env[Any, Any]:
        """Return the environment, or in this process its declaration."""
        return self._make() if self._declared is None else self._declared

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes receive."""
        return {"_make": self._make, "_declared": None}


class _Declared(gym.Env[Any, Any]):
    """The spaces of an environment without the environment."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.metadata, self.render_mode = env.metadata, env.render_mode
        self.action_space, self.observation_space = env.action_space, env.observation_space


class ProcessEndedError(EnvironmentFailedError):
    """The process of an environment has ended: it was killed, or ran out of memory."""


class RemoteTracebackError(Exception):
    """The traceback of another process, as the cause of the exception raised here."""


if TYPE_CHECKING:
    _AsyncVectorEnv = AsyncVectorEnv[Any, Any]
else:
    _AsyncVectorEnv = AsyncVectorEnv  # not generic before Gymnasium 1.4


class Workers(_AsyncVectorEnv):
    """One process for each copy. Processes may start processes of their own; they end when this one
    does, however it ends.
    """

    def __init__(self, copies: Sequence[Copy], places: Sequence[Place]) -> None:
        """Raises `EnvironmentFailedError` if a copy cannot be made, and `ProcessEndedError` if its
        process ends.
        """
        self._places = places
        self.parent_pipes, self.processes = [], []
        try:
            # Spawned, not forked: some InfiniBand stacks and CUDA do not survive a fork.
            with signals.shield_children(), self.ended_named():
                super().__init__(
                    copies,
                    context="spawn",
                    daemon=False,
                    worker=cast(Any, work),  # annotated as if the shared memory were a bool
                    autoreset_mode=AutoresetMode.DISABLED,
                )
        except BaseException:
            self.close(terminate=True)
            raise
        # Python waits for these processes when it exits, unless they have ended before.
        util.Finalize(self, _end_all, args=(self.parent_pipes, self.processes), exitpriority=1)

    @contextmanager
    def ended_named(self) -> Iterator[None]:
        """Raise `ProcessEndedError` for a process that ended: Gymnasium raises only that of its
        broken pipe.
        """
        try:
            yield
        except (EOFError, ConnectionError) as error:
            connection.wait([process.sentinel for process in self.processes], timeout=1)
            for place, process in zip(self._places, self.processes, strict=False):
                if process.exitcode is not None:
                    raise ProcessEndedError(
                        f"{place}: its process {process.pid} ended with {process.exitcode}"
                    ) from error
            raise

    def send(self, copy: int, command: str, data: Any) -> None:
        """Send a command to one copy, which must have answered the one before."""
        self.parent_pipes[copy].send((command, data))

    def wait_for(self, copies: Sequence[int], count: int) -> list[int]:
        """Wait until at least `count` of these copies have answered; return those that have."""
        waiting = {self.parent_pipes[copy]: copy for copy in copies}
        answered = [waiting.pop(cast(Connection, p)) for p in connection.wait(list(waiting), 0)]
        while len(answered) < count:
            answered += [waiting.pop(cast(Connection, p)) for p in connection.wait(list(waiting))]
        return answered

    def receive(self, copy: int) -> Any:
        """Return the answer of one copy. Raises as a step of all copies does."""
        answer, success = self.parent_pipes[copy].recv()
        self._raise_if_errors([success])
        return answer

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments and end their processes, after `timeout` seconds by force."""
        if not terminate:
            deadline = time.monotonic() + (SECONDS_TO_CLOSE if timeout is None else timeout)
            for pipe in _open(self.parent_pipes):
                with suppress(OSError):
                    pipe.send(("close", None))
            for place, pipe in zip(self._places, self.parent_pipes, strict=False):
                if pipe is not None and not pipe.closed:
                    _read_closing(place, pipe, deadline)
            for place, process in zip(self._places, self.processes, strict=False):
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    warn(f"{place} did not close in time; its process was ended")
        _end_all(self.parent_pipes, self.processes)

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the error of the first copy that failed; Gymnasium's own prints all of them."""
        failed = [success for success in successes if not success]
        if not failed:
            return
        errors = sorted(self._next_error() for _ in failed)
        for index, *_ in errors:
            if index >= 0:
                self.parent_pipes[index].close()
                cast(list[Any], self.parent_pipes)[index] = None
        self._state = AsyncState.DEFAULT
        index, line, trace, is_user_error = errors[0]
        if is_user_error:
            raise UserError(line) from RemoteTracebackError(trace)
        where = str(self._places[index]) if index >= 0 else "an environment"
        raise EnvironmentFailedError(f"{where}: {line}") from RemoteTracebackError(trace)

    def _next_error(self) -> tuple[int, str, str, bool]:
        try:
            index, line, trace, is_user_error = self.error_queue.get(timeout=_SECONDS_FOR_TEXT)
        except queue.Empty:
            return -1, "it raised, and its process ended before it could say what", "", False
        return index, line, trace, is_user_error


def work(
    index: int,
    make: Callable[[], gym.Env[Any, Any]],
    pipe: Connection,
    parent_pipe: Connection,
    shared_memory: Any,
    error_queue: Any,
    autoreset_mode: AutoresetMode,
    semaphore: Any = None,
) -> None:
    """Serve one copy in its process: the target of `AsyncVectorEnv`, which sends the commands.
    Gymnasium 1.1 passes no semaphore.
    """
    parent_pipe.close()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    env = None
    try:
        env = make()
        served = _serve(env, index, pipe, shared_memory)
    except RAISED as error:
        error_queue.put((index, told(error), traceback.format_exc(), isinstance(error, UserError)))
        served = _send(pipe, (None, False)) and _wait_for_end(pipe)
    problem = ""
    try:
        if env is not None:
            env.close()
    except RAISED as error:
        problem = f"close() raised {typed_line(error)}"
    if served:
        _send(pipe, (("closed", problem), True))


def _serve(env: gym.Env[Any, Any], index: int, pipe: Connection, shared_memory: Any) -> bool:
    """Answer commands until `close`. Returns False if the other process has gone."""
    space = env.observation_space
    assert isinstance(space, gym.spaces.Box)
    keeps_numbers = isinstance(env, InfoNumbers)
    while True:
        message = _receive(pipe)
        if message is None or message[0] == "close":
            return message is not None
        command, data = message
        answer: Any = None, {}
        if command == "step":
            obs, *outcome, info = step_env(env, data)
            answer = None, *outcome, info if keeps_numbers else {}
        elif command == "reset":
            obs = reset_env(env, data["seed"])
        elif command == "_check_spaces":
            require_same_spaces(env, *data[1:])
            answer = True, True
        elif command == "_call":
            name, args, kwargs = data
            attribute = env.get_wrapper_attr(name)
            answer = attribute(*args, **kwargs) if callable(attribute) else attribute
        elif command != "reset-noop":
            raise InterfaceError(f"unknown command {command!r}")
        if command in ("step", "reset"):
            require_shape(obs, space)
            write_to_shared_memory(space, index, obs, shared_memory)
        if not _send(pipe, (answer, True)):
            return False


def _receive(pipe: Connection) -> Any:
    """Return the next command, or `None` if the other process has gone."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _send(pipe: Connection, answer: Any) -> bool:
    """Return whether the other process is there to read it."""
    try:
        pipe.send(answer)
    except OSError:
        return False
    return True


def _wait_for_end(pipe: Connection) -> bool:
    """Wait until the other process closes the pipe, or says so (then return True)."""
    while (message := _receive(pipe)) is not None:
        if message[0] == "close":
            return True
    return False


def _end_with_parent() -> None:
    """End this process a while after the one that started it, if that did not close it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(SECONDS_TO_CLOSE)
    os._exit(1)


def _read_closing(place: Place, pipe: Connection, deadline: float) -> None:
    """Read a worker's last message, after those that nobody has read. Warn of an error in it."""
    with suppress(EOFError, OSError):
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            answer, _ = pipe.recv()
            if isinstance(answer, tuple) and isinstance(answer[0], str):
                if answer[1]:
                    warn(f"{place}: {answer[1]}")
                return


def _open(pipes: Sequence[Any]) -> list[Any]:
    return [pipe for pipe in pipes if pipe is not None and not pipe.closed]


def _end_all(pipes: Sequence[Any], processes: Sequence[Any]) -> None:
    """Close the pipes, which tells workers to close their environments, and a second later end the
    processes that are alive: by SIGTERM, after another second by SIGKILL.
    """
    for pipe in _open(pipes):
        pipe.close()
    for end in ("terminate", "kill"):
        deadline = time.monotonic() + 1
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                getattr(process, end)()
    for process in processes:
        process.join()
