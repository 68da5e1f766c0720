"""A policy as a program of another kind: ONNX, or torch's own, each checked against the policy."""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.acting.exploration import epsilon_greedy
from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.common.seeding import Stream, derived_seed
from hvd_dqn.envs import make_vector_env
from hvd_dqn.policy import Policy

_REMEDY = "pip install 'hvd_dqn[export]'"
_TOLERANCE = 1e-4


class ActionValues(nn.Module):
    """Stacked observations [N, K·C, …] to action values [N, A], with what scales them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """Of the type that the environment gives: bytes or float32."""
        values: Tensor = self.network(obs)
        return values


class SlicedMaxPool(nn.Module):
    """Adaptive max pooling by slices, for ONNX, which has none."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, size, size]."""
        for axis in (2, 3):
            length = images.shape[axis]
            edges = [
                (number * length // self._size, -(-(number + 1) * length // self._size))
                for number in range(self._size)
            ]
            slices = [images.narrow(axis, start, stop - start) for start, stop in edges]
            images = torch.cat([part.amax(axis, keepdim=True) for part in slices], dim=axis)
        return images


def _without_adaptive_pooling(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveMaxPool2d):
                setattr(parent, name, SlicedMaxPool(int(child.output_size)))  # type: ignore[arg-type]
    return module


def recorded_observations(policy: Policy, count: int) -> np.ndarray:
    """Stacked observations [count, K·C, …] of episodes that the policy plays, a tenth of its
    actions at random. `UserError` where the environment cannot be made here.
    """
    config = policy.config
    envs = make_vector_env(
        dataclasses.replace(config.env, vectorization="sync"),
        num_envs=1,
        episode_seed=lambda copy, number: derived_seed(0, Stream.EVALUATION, number),
        max_episode_steps=config.evaluation.max_episode_steps,
    )
    rng, kept = np.random.default_rng(0), []
    try:
        obs = envs.reset()
        for _ in range(count):
            kept.append(obs[0])
            values = functools.partial(policy.values_of, obs)
            action = epsilon_greedy(np.array([0.1]), envs.num_actions, values, rng)
            obs = envs.step(action).obs
    finally:
        envs.close()
    return np.stack(kept)


def export(policy: Policy, path: Path, kind: str, observations: np.ndarray) -> float:
    """Write the policy to `path` as `onnx` or `torch`; the greatest difference of an action value
    from the policy's on `observations`, from the file as it was read back.

    Raises `UserError` where a package is missing or the file cannot be written, `RunError` where
    the difference is too great for rounding.
    """
    network = copy.deepcopy(policy.network)
    network.precision = "float32"  # parameters are; ONNX runtimes know little of bfloat16
    module = ActionValues(network).eval()
    write, load = {"onnx": (_write_onnx, _load_onnx), "torch": (_write_torch, _load_torch)}[kind]
    partial = path.with_name(f"partial-{path.name}")
    example = torch.from_numpy(observations[:2].copy())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters' own insides
            write(module, example, partial)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    run = load(partial)
    with torch.no_grad():
        expected = module(torch.from_numpy(observations)).numpy()
    # one by one, and all at once: the number of observations is left open
    found = np.concatenate([run(observations[:1]), run(observations[1:])])
    scale = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(found - expected).max())
    if not difference <= _TOLERANCE * scale:
        partial.unlink(missing_ok=True)
        raise RunError(
            f"{path} gives other action values than the policy, by up to {difference:.3g}: do not "
            "use it"
        )
    partial.rename(path)
    return difference


def _write_onnx(module: nn.Module, example: Tensor, path: Path) -> None:
    _require("onnx", "onnxscript", "onnxruntime")
    torch.onnx.export(
        _without_adaptive_pooling(module),
        (example,),
        path,
        input_names=["obs"],
        output_names=["q_values"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _load_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(obs: np.ndarray) -> np.ndarray:
        values: np.ndarray = session.run(["q_values"], {"obs": obs})[0]
        return values

    return run


def _write_torch(module: nn.Module, example: Tensor, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    torch.export.save(program, path)


def _load_torch(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    program: Any = torch.export.load(path).module()

    def run(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            values: np.ndarray = program(torch.from_numpy(obs)).numpy()
        return values

    return run


def _require(*packages: str) -> None:
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"ONNX needs the package {package!r}, which is not installed", _REMEDY)
