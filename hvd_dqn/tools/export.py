"""Export a policy to ONNX or to a torch program, and check the file against the policy."""

from __future__ import annotations

import copy
import functools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hvd_dqn.acting.exploration import Values, epsilon_greedy
from hvd_dqn.common.errors import RunError, UserError
from hvd_dqn.common.files import replacing
from hvd_dqn.common.seeding import Stream, derived_seed
from hvd_dqn.envs import make_vector_env
from hvd_dqn.policy import Policy
from hvd_dqn.spaces.description import describe
from hvd_dqn.spaces.records import RecordSpace

_REMEDY = "pip install 'hvd_dqn[export]'"
_TOLERANCE = 1e-4
_Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Returns the Q-values [N, A] of inputs by name."""


class QValues(nn.Module):
    """Maps stacked observations [N, K·C, …] to Q-values [N, A], including their scaling. The
    Q-values are in the order of the actions, whose first value is the start of the action space.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """`obs` is uint8 or float32, as the environment gives it."""
        values: Tensor = self.network(obs)
        return values


class NamedQValues(nn.Module):
    """Maps the parts of observations to Q-values [N, A], like `QValues`: one input for each field
    of the records, [N, *shape], or [N, K, *shape] if K frames are stacked.

    Discrete values are int64, from the start of their space on; the others have the types that
    records have.
    """

    def __init__(self, network: nn.Module, space: RecordSpace) -> None:
        super().__init__()
        self.network = network
        self._is_stacked = space.frames > 1
        self._starts = [torch.from_numpy(field.start.astype(np.int64)) for field in space.fields]

    def forward(self, *fields: Tensor) -> Tensor:
        """The fields are in the order of the records; the action mask is the last, if there is
        one.
        """
        stacks = [
            (field if self._is_stacked else field.unsqueeze(1)) - start.to(field.dtype)
            for field, start in zip(fields, self._starts, strict=True)
        ]
        values: Tensor = self.network(tuple(stacks))
        return values


class SlicedMaxPool(nn.Module):
    """Adaptive max pooling by slices; ONNX has no such operator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def forward(self, images: Tensor) -> Tensor:
        """Pool [B, C, H, W] to [B, C, size, size]."""
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
    """Play episodes and return `count` stacked observations, [count, K·C, …]. A tenth of the
    actions are random.

    Raises `UserError` if the environment cannot be created.
    """
    config = policy.config
    envs = make_vector_env(
        config.env.in_this_process,
        num_envs=1,
        episode_seed=lambda copy, number: derived_seed(0, Stream.EVALUATION, number),
        max_episode_steps=config.evaluation.max_episode_steps,
    )
    rng, kept = np.random.default_rng(0), []
    try:
        obs = envs.reset()
        for _ in range(count):
            kept.append(obs[0])
            values = Values(functools.partial(policy.values_of, obs), envs.branches)
            action = epsilon_greedy(
                np.array([0.1]), envs.num_actions, values, rng, legal=envs.legal_actions(obs)
            )
            obs = envs.step(action).obs
    finally:
        envs.close()
    return np.stack(kept)


def named_inputs(policy: Policy, observations: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of an exported file for stacked observations [N, K·C, …], by their names:
    `obs`, or the parts of the environment's observations and `action_mask`.
    """
    space = policy.stacked_space
    if not isinstance(space, RecordSpace):
        return {"obs": observations}
    stacks = observations.reshape(len(observations), space.frames, -1)
    records = np.ascontiguousarray(stacks).view(space.layout)[..., 0]
    inputs = {}
    for field in space.fields:
        values = records[field.name] if space.frames > 1 else records[field.name][:, 0]
        if field.choices is not None:
            values = values.astype(np.int64) + field.start
        inputs[field.name] = np.ascontiguousarray(values)
    return inputs


def export(policy: Policy, path: Path, kind: str, observations: np.ndarray) -> float:
    """Write the policy to `path`, as `kind` `onnx` or `torch`, with the spaces of its environment
    as JSON: ONNX's metadata `spaces`, torch's extra file `spaces.json`. Return the largest absolute
    difference between the Q-values of the file, read back, and of the policy on `observations`.

    Raises `UserError` if a package is missing or the file cannot be written, and `RunError` if the
    difference is larger than rounding explains.
    """
    network = copy.deepcopy(policy.network)
    network.precision = "float32"  # as the parameters; ONNX runtimes support little bfloat16
    space = policy.stacked_space
    module: nn.Module = QValues(network)
    if isinstance(space, RecordSpace):
        module = NamedQValues(network, space)
    module.eval()
    inputs = named_inputs(policy, observations)
    write, load = {"onnx": (_write_onnx, _load_onnx), "torch": (_write_torch, _load_torch)}[kind]
    example = {name: torch.from_numpy(values[:2].copy()) for name, values in inputs.items()}
    with torch.no_grad():
        expected = network(torch.from_numpy(observations)).numpy()
    with replacing(path) as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporters' internals
            write(module, example, file, _spaces(policy))
        run = load(file)
        # two batch sizes, since the file must accept any
        parts = [
            {name: v[rows] for name, v in inputs.items()} for rows in (slice(1), slice(1, None))
        ]
        found = np.concatenate([run(part) for part in parts])
        legal = np.isfinite(expected)
        scale = max(1.0, float(np.abs(expected[legal]).max()))
        difference = float(np.abs(found[legal] - expected[legal]).max())
        if not np.array_equal(np.isfinite(found), legal):
            difference = math.inf
        if not difference <= _TOLERANCE * scale:
            raise RunError(
                f"the Q-values of the exported file differ from the policy's by up to "
                f"{difference:.3g}; {path} was not written"
            )
    return difference


def _spaces(policy: Policy) -> str:
    spaces = {
        "observation": describe(policy.observation_space),
        "action": describe(policy.action_space),
    }
    return json.dumps(spaces)


def _write_onnx(module: nn.Module, example: dict[str, Tensor], path: Path, spaces: str) -> None:
    _require("onnx", "onnxscript", "onnxruntime")
    program = torch.onnx.export(
        _without_adaptive_pooling(module),
        tuple(example.values()),
        input_names=list(example),
        output_names=["q_values"],
        dynamic_shapes=_any_batch(module, example),
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "dynamo's exporter returns it"
    program.model.metadata_props["spaces"] = spaces
    program.save(path, external_data=False)


def _any_batch(module: nn.Module, example: dict[str, Tensor]) -> tuple[Any, ...]:
    """Return the sizes that may vary, as torch's exporter takes them."""
    sizes = tuple({0: torch.export.Dim("batch")} for _ in example)
    return (sizes,) if isinstance(module, NamedQValues) else sizes


def _load_onnx(path: Path) -> _Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        values: np.ndarray = session.run(["q_values"], inputs)[0]
        return values

    return run


def _write_torch(module: nn.Module, example: dict[str, Tensor], path: Path, spaces: str) -> None:
    shapes = _any_batch(module, example)
    program = torch.export.export(module, tuple(example.values()), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={"spaces.json": spaces})


def _load_torch(path: Path) -> _Run:
    program: Any = torch.export.load(path).module()

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            values: np.ndarray = program(*map(torch.from_numpy, inputs.values())).numpy()
        return values

    return run


def _require(*packages: str) -> None:
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"ONNX export needs the package {package}, which is not installed", _REMEDY
            )
