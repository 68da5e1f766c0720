"""Saved networks: one directory each, written completely or not at all, without pickle."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor, nn

from hvd_dqn.common.errors import UserError, one_line
from hvd_dqn.common.files import publish, read_bounded, sync_directory, write_durably

_MARGIN = 1 << 20
_MANIFEST, _NETWORK = "manifest.json", "network.safetensors"


class SavedNetwork(NamedTuple):
    """A saved network: its directory and the contents of its manifest."""

    path: Path
    env_steps: int
    updates: int
    evaluation_mean: float | None


class EvaluatedNetwork(NamedTuple):
    """A network's state, the counters when it was copied, and its mean return (NaN if unknown)."""

    env_steps: int
    updates: int
    mean: float
    network: dict[str, Tensor]


class NetworkDirectory:
    """The `networks/` of a run, which keeps the newest few networks and the best by evaluation."""

    def __init__(self, path: Path, keep: int = 2) -> None:
        self._path = path
        self._keep = keep

    def has(self, env_steps: int) -> bool:
        """Whether the network after this many env steps is saved."""
        return (self._place(env_steps) / _MANIFEST).exists()

    def save(self, judged: EvaluatedNetwork) -> Path:
        """Save one network: write its file, then its manifest with the checksum, without which the
        network does not exist. No directory is renamed: some object stores cannot.
        """
        place = self._place(judged.env_steps)
        place.mkdir(parents=True, exist_ok=True)
        partial = place / f"{_NETWORK}.partial"
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in judged.network.items()}
        data = safetensors.torch.save(tensors)
        manifest = {
            "env_steps": judged.env_steps,
            "updates": judged.updates,
            "evaluation_mean": judged.mean if math.isfinite(judged.mean) else None,
            "sha256": {_NETWORK: hashlib.sha256(data).hexdigest()},
        }
        try:
            write_durably(partial, [data])
            (place / _MANIFEST).unlink(missing_ok=True)
            partial.rename(place / _NETWORK)
            publish(place / _MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        except OSError:
            partial.unlink(missing_ok=True)
            if not self.has(judged.env_steps):
                _remove(place)
            raise
        sync_directory(self._path)
        self._prune()
        return place

    def remove_after(self, env_steps: int) -> None:
        """Remove networks newer than `env_steps`: the resumed run writes them again."""
        for place in self._path.glob("step-*"):
            if place.name > self._place(env_steps).name:
                _remove(place)

    def list(self) -> list[SavedNetwork]:
        """Return the complete saved networks, oldest first."""
        found = []
        for manifest in sorted(self._path.glob(f"step-*/{_MANIFEST}")):
            if manifest.parent.suffix != ".partial":  # of an earlier version
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
        """Return the network with the highest mean return; the newest among equals.

        Raises `UserError` if there is none.
        """
        saved = self.list()
        if not saved:
            raise UserError(
                f"{self._path} contains no network: the run has not reached its first evaluation"
            )
        return max(saved, key=lambda s: (_rating(s), s.env_steps))

    def find(self, which: str | int) -> SavedNetwork:
        """Return the `best` network, the `newest`, or the one after this many env steps.

        Raises `UserError` if there is none.
        """
        if which == "best":
            return self.best()
        saved = self.list()
        if which == "newest" and saved:
            return saved[-1]
        for network in saved:
            if str(network.env_steps) == str(which):
                return network
        there = ", ".join(str(network.env_steps) for network in saved) or "none"
        raise UserError(
            f"{self._path} has no network {which}",
            f"choose best, newest or one of these env steps: {there}",
        )

    def _place(self, env_steps: int) -> Path:
        return self._path / f"step-{env_steps:012d}"

    def _prune(self) -> None:
        saved = self.list()
        kept = {self.best().path, *(s.path for s in saved[-self._keep :])}
        for old in saved:
            if old.path not in kept:
                _remove(old.path)


def _remove(place: Path) -> None:
    """Remove a network, its manifest first. What stays does no harm: NFS keeps the files that
    somebody reads.
    """
    with suppress(OSError):
        (place / _MANIFEST).unlink()
    shutil.rmtree(place, ignore_errors=True)


def load_network(network: nn.Module, saved: SavedNetwork) -> None:
    """Load the saved weights into `network`.

    Raises `UserError` if the file is damaged or belongs to a different network.
    """
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    try:
        data = read_bounded(saved.path / _NETWORK, 2 * size + _MARGIN)
    except OSError as error:
        raise UserError(f"{saved.path / _NETWORK} cannot be read: {error.strerror}") from error
    expected = _read_manifest(saved.path / _MANIFEST)["sha256"][_NETWORK]
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError(
            f"{saved.path / _NETWORK} is damaged: its checksum differs from the manifest's; "
            "choose another network"
        )
    try:
        network.load_state_dict(safetensors.torch.load(data))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{saved.path} does not fit the network of config.json: {one_line(error)}"
        ) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    """Raises `UserError` if the file is not a manifest."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest.keys() < {"env_steps", "updates", "evaluation_mean", "sha256"}:
            raise KeyError("a field is missing")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error})", "remove the directory that contains it"
        ) from error
    return manifest


def _rating(saved: SavedNetwork) -> float:
    return float("-inf") if saved.evaluation_mean is None else saved.evaluation_mean
