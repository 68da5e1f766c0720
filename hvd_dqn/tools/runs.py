"""What a run directory tells of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.run.directory import RunDirectory


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every record of a run. `UserError` where there is none; a last line cut short by a crash is
    passed over.
    """
    file = RunDirectory(path).metrics_file
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise UserError(
            f"{path} is not a run directory: {file} cannot be read ({error.strerror})"
        ) from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{file}, line {number} is not JSON: {error}") from error
            continue
        if not isinstance(record, dict) or not {"env_steps", "updates", "seconds"} <= record.keys():
            raise UserError(f"{file}, line {number} is no record of a run")
        records.append(record)
    return records


def is_over(path: Path) -> bool:
    """Whether the closing evaluation was the last that the run did."""
    records = read_metrics(path)
    return bool(records) and "closing/return_mean" in records[-1]


def read_facts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.json` and `run.json`. `UserError` where they are not there."""
    run_dir = RunDirectory(path)
    run_dir.require_run()
    try:
        config = json.loads(run_dir.config_file.read_text())
        facts = json.loads(run_dir.facts_file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is no whole run directory: {error}", "the run was damaged, or is another's"
        ) from error
    if not isinstance(config, dict) or not isinstance(facts, dict) or "env" not in config:
        raise UserError(f"{path} is no run directory: its config.json or run.json is of others")
    return config, facts


def title_of(config: dict[str, Any], facts: dict[str, Any]) -> str:
    """A run in a line: environment, preset, ranks, seed."""
    now = facts.get("resumed", [facts])[-1]
    count = now.get("world_size", 1)
    ranks = f"{count} rank{'s' * (count != 1)} ({now.get('backend', 'unknown')})"
    told = config["env"].get("id"), config.get("preset"), ranks, f"seed {config.get('seed')}"
    return " · ".join(map(str, told))
