"""Saved networks: a directory each, written whole or not at all, without pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import nn

from hvd_dqn.errors import UserError

_MANIFEST, _NETWORK = "manifest.json", "network.safetensors"


class SavedNetwork(NamedTuple):
    """A checkpoint that is complete: its directory and what its manifest says."""

    path: Path
    env_steps: int
    updates: int
    evaluation_mean: float | None


class NetworkDirectory:
    """The `checkpoints/` of a run: the newest few and the best by evaluation."""

    def __init__(self, path: Path, keep: int = 2) -> None:
        self._path = path
        self._keep = keep

    def save(
        self, network: nn.Module, *, env_steps: int, updates: int, evaluation_mean: float | None
    ) -> Path:
        """Write one checkpoint: files first, the manifest with their checksums last, then the
        rename that makes it exist.
        """
        final = self._path / f"step-{env_steps:012d}"
        partial = final.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()
        }
        data = safetensors.torch.save(tensors)
        manifest = {
            "env_steps": env_steps,
            "updates": updates,
            "evaluation_mean": evaluation_mean if _is_number(evaluation_mean) else None,
            "sha256": {_NETWORK: hashlib.sha256(data).hexdigest()},
        }
        _write_durably(partial / _NETWORK, data)
        _write_durably(partial / _MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync_directory(self._path)
        self._prune()
        return final

    def remove_after(self, env_steps: int) -> None:
        """Remove what is newer than this: a run that goes on from here makes its own."""
        for saved in self.list():
            if saved.env_steps > env_steps:
                shutil.rmtree(saved.path)

    def list(self) -> list[SavedNetwork]:
        """Complete checkpoints, oldest first."""
        found = []
        for manifest in sorted(self._path.glob(f"step-*/{_MANIFEST}")):
            if manifest.parent.suffix != ".partial":
                text = _read_manifest(manifest)
                found.append(
                    SavedNetwork(
                        manifest.parent,
                        text["env_steps"],
                        text["updates"],
                        text["evaluation_mean"],
                    )
                )
        return found

    def best(self) -> SavedNetwork:
        """The checkpoint of the highest mean return; the newest among equals. `UserError` where
        there is none.
        """
        saved = self.list()
        if not saved:
            raise UserError(
                f"{self._path} holds no checkpoint: the run has not come to its first evaluation"
            )
        return max(saved, key=lambda s: (_rating(s), s.env_steps))

    def _prune(self) -> None:
        saved = self.list()
        kept = {self.best().path, *(s.path for s in saved[-self._keep :])}
        for old in saved:
            if old.path not in kept:
                shutil.rmtree(old.path)


def load_network(network: nn.Module, saved: SavedNetwork) -> None:
    """Put a checkpoint's weights into `network`. `UserError` where the file is damaged or of
    another network.
    """
    data = (saved.path / _NETWORK).read_bytes()
    expected = _read_manifest(saved.path / _MANIFEST)["sha256"][_NETWORK]
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError(
            f"{saved.path / _NETWORK} is damaged: its checksum is not the manifest's; evaluate "
            "another checkpoint"
        )
    try:
        network.load_state_dict(safetensors.torch.load(data))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{saved.path} does not fit the network of config.json: {reason}"
        ) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """`UserError` where it is not one."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest.keys() < {"env_steps", "updates", "evaluation_mean", "sha256"}:
            raise KeyError("a field is missing")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error})", "remove its checkpoint's directory"
        ) from error
    return manifest


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _rating(saved: SavedNetwork) -> float:
    return float("-inf") if saved.evaluation_mean is None else saved.evaluation_mean


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
