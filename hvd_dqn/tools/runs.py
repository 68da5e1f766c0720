"""Read a run directory: its settings, the facts of its starts, and its records."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.zoo import located


class RecordReader:
    """Reads a `metrics.jsonl` while it grows.

    An incomplete last line is left until its end is written. If the file has become shorter (a
    resumed run removes the records after its checkpoint), it is read again from the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = self._lines = 0

    def read_new(self) -> list[dict[str, Any]]:
        """Return the records since the last call; none if the file does not exist (yet).

        Raises `UserError` if the file cannot be read or a line is not a record.
        """
        try:
            with self._file.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position = self._lines = 0
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self._file} cannot be read: {error.strerror}") from error
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        return [self._parse(line) for line in complete.splitlines()]

    def _parse(self, line: bytes) -> dict[str, Any]:
        self._lines += 1
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{self._file}, line {self._lines} is not JSON: {error}") from error
        if not isinstance(record, dict) or not {"env_steps", "updates", "seconds"} <= record.keys():
            raise UserError(
                f"{self._file}, line {self._lines} is not a record: it needs env_steps, updates "
                "and seconds"
            )
        return record


class Run:
    """One run directory, read completely."""

    def __init__(self, path: Path) -> None:
        """Raises `UserError` if `path` is not a run directory or is damaged."""
        self.path = path
        self.name = path.resolve().name
        self.config, self.facts = _read_settings(path)
        self.records = read_records(path)
        final = [r for r in self.records if r.get("closing/return_mean") is not None]
        self.final: dict[str, Any] | None = final[-1] if final else None
        """The record of the final evaluation."""

    @property
    def last_start(self) -> dict[str, Any]:
        """The facts of the run's last start."""
        facts: dict[str, Any] = self.facts.get("resumed", [self.facts])[-1]
        return facts

    @property
    def last_record(self) -> dict[str, Any]:
        """The newest record, or an empty one."""
        return self.records[-1] if self.records else {}

    @property
    def title(self) -> str:
        """The run in one line: environment, preset, ranks, seed."""
        count = self.last_start.get("world_size", 1)
        ranks = f"{count} rank{'s' * (count != 1)} ({self.last_start.get('backend', 'unknown')})"
        config = self.config
        parts = config["env"].get("id"), config.get("preset"), ranks, f"seed {config.get('seed')}"
        return " · ".join(map(str, parts))


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the runs in `paths`, which are run directories, `zoo:NAME` or directories that contain
    runs, at any depth. What is not a run is skipped, with a line on standard error.

    Raises `UserError` if a path does not exist, if the only path is a damaged run, or if there is
    no run.
    """
    runs: dict[Path, Run] = {}
    paths = [located(path) for path in paths]
    for path in paths:
        found = sorted(_run_directories(path))
        if not found:
            if not os.path.lexists(path):
                raise UserError(f"{path} does not exist")
            if len(paths) == 1 and path.is_dir():
                RunDirectory(path).require_run()
            _skip(path, "no run directory is in it" if path.is_dir() else "it is a file")
        for directory in found:
            if directory.resolve() in runs:
                continue
            try:
                runs[directory.resolve()] = Run(directory)
            except UserError as error:
                if [directory] == list(paths):
                    raise
                _skip(directory, str(error))
    if not runs:
        raise UserError(
            f"no run was found in {' '.join(map(str, paths))}",
            "name a directory that hvd-dqn train created, or one that contains some",
        )
    return list(runs.values())


def _run_directories(path: Path) -> Iterator[Path]:
    """Yield the directories at or below `path` that have a config.json; none below another."""
    for place, directories, files in os.walk(path):
        if "config.json" in files:
            directories.clear()
            yield Path(place)
        directories[:] = [name for name in directories if not name.startswith(".")]


def _skip(path: Path, reason: str) -> None:
    print(f"hvd-dqn: skipped {path}: {reason}", file=sys.stderr, flush=True)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of the run in `path`, oldest first. Raises `UserError` as `RecordReader`
    does.
    """
    return RecordReader(RunDirectory(path).metrics_file).read_new()


def is_finished(path: Path) -> bool:
    """Return whether the newest record of the run in `path` is its final evaluation."""
    records = read_records(path)
    return bool(records) and "closing/return_mean" in records[-1]


def _read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of `config.json` and `run.json`, of any version of this package."""
    run_dir = RunDirectory(path)
    run_dir.require_run()
    config, facts = _read_object(run_dir.config_file), {}
    if isinstance(config.get("env"), dict):
        facts = _read_object(run_dir.facts_file)
    if not facts:
        raise UserError(
            f"{path} is not a run directory: its config.json or run.json was not written by hvd_dqn"
        )
    return config, facts


def _read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`; an empty one if it contains something else."""
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read: {reason}") from error
    return contents if isinstance(contents, dict) else {}
