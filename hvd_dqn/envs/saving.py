"""The state of an environment that can save and load it, as files in a checkpoint.

An environment with `save(path)` and `load(path)` writes files into the empty directory `path`, and
reads them from one. Its unfinished episodes are then continued from there instead of being replayed
from their seeds and actions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import wrappers

from hvd_dqn.envs.interface import InterfaceError

Files = dict[str, np.ndarray]
"""Contents by name, uint8."""
_WITHOUT_STATE = (
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.TimeLimit,  # whose state is the number of steps
    wrappers.DtypeObservation,
    wrappers.FilterObservation,
    wrappers.FlattenObservation,
    wrappers.GrayscaleObservation,
    wrappers.RescaleAction,
    wrappers.RescaleObservation,
    wrappers.ReshapeObservation,
    wrappers.ResizeObservation,
    wrappers.TransformAction,
    wrappers.TransformObservation,
    wrappers.TransformReward,
)
_MOST_BYTES = 1 << 30
"""The largest state of one rank: it passes through memory, and through one message of MPI."""


@runtime_checkable
class SavesStates(Protocol):
    """Simulators that can save the state of their copies."""

    saves_states: bool
    """Whether the environment can."""

    def save_states(self) -> list[Files]:
        """Return the state of each copy."""
        ...

    def load_states(self, states: list[Files], steps: list[int]) -> None:
        """Restore the state of each copy, whose episode had taken so many steps."""
        ...


def can_save(env: gym.Env[Any, Any]) -> bool:
    """Whether an environment saves its state, and no wrapper around it has a state of its own."""
    return _savable(env) is not None


def save_env(env: gym.Env[Any, Any]) -> Files:
    """Let the environment save its state. Raises `InterfaceError` for what is not plain files."""
    savable = _savable(env)
    assert savable is not None, "ask can_save first"
    with tempfile.TemporaryDirectory(prefix="hvd-dqn-") as place:
        savable.save(place)
        paths = sorted(Path(place).iterdir())
        for path in paths:
            if path.is_symlink() or not path.is_file():
                raise InterfaceError(f"save() wrote {path.name}, which is not a plain file")
        if sum(path.stat().st_size for path in paths) > _MOST_BYTES:
            raise InterfaceError(f"save() wrote more than {_MOST_BYTES >> 30} GiB")
        return {path.name: np.fromfile(path, dtype=np.uint8) for path in paths}


def load_env(env: gym.Env[Any, Any], files: Files, steps: int) -> None:
    """Let the environment load its state, of an episode that had taken `steps` steps."""
    savable = _savable(env)
    assert savable is not None, "ask can_save first"
    with tempfile.TemporaryDirectory(prefix="hvd-dqn-") as place:
        for name, contents in files.items():
            if Path(name).name != name:
                raise InterfaceError(f"the state has a file {name!r}, which is not a plain name")
            contents.tofile(Path(place, name))
        savable.load(place)
    wrapper = env
    while isinstance(wrapper, gym.Wrapper):
        if isinstance(wrapper, wrappers.TimeLimit):
            wrapper._elapsed_steps = cast(Any, steps)  # annotated as None
        wrapper = wrapper.env


def pack_files(files: Files) -> tuple[list[Any], bytes]:
    """Return a table of the files, as JSON in a list, and their contents, for a message."""
    table = [[name, len(contents)] for name, contents in files.items()]
    return [table], b"".join(contents.tobytes() for contents in files.values())


def unpack_files(table: list[Any], contents: Any) -> Files:
    """Return the files of a message."""
    whole, files, start = np.frombuffer(contents, np.uint8), {}, 0
    for name, size in table:
        files[name] = whole[start : start + size]
        start += size
    return files


def _savable(env: gym.Env[Any, Any]) -> Any:
    """Return the environment or the wrapper that has `save` and `load`; `None` if there is none, or
    if a wrapper around it may have a state.
    """
    while True:
        if all(callable(getattr(type(env), name, None)) for name in ("save", "load")):
            return env
        own = type(env).__module__.startswith("hvd_dqn.")
        if not (isinstance(env, gym.Wrapper) and (own or isinstance(env, _WITHOUT_STATE))):
            return None
        env = env.env
