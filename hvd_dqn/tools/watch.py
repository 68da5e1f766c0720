"""Following a run from outside, by what it writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.structs import Progress
from hvd_dqn.config.loading import load_config
from hvd_dqn.reporting.display import Display, make_display
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools.runs import read_facts, title_of

_SECONDS_BETWEEN_LOOKS = 0.5
_SILENCE_SECONDS = 60.0


class Records:
    """The records of a run as they come; a line that is being written waits for its end, and a
    file that was cut back, as a run goes back to a checkpoint, is read from its beginning. What is
    no number is `nan`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that have come since the last call. `UserError` where they cannot be read."""
        try:
            with self._file.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position = 0
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{self._file} cannot be read: {error.strerror}") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{self._file} is damaged: a line is not JSON") from error
            yield {k: math.nan if v is None else v for k, v in record.items()}


def watch(
    path: Path,
    *,
    follow: bool = True,
    display: Display | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Show a run's newest figures until it is over, or once; whether it is over. `UserError` where
    there is no run.
    """
    run_dir = RunDirectory(path)
    run_dir.require_run()
    config = load_config(run_dir.config_file)
    title = title_of(*read_facts(path))
    display = display or make_display(config.total_env_steps)
    records = Records(run_dir.metrics_file)
    past = list(records.new())
    display.start(title, past[-1]["env_steps"] if past else 0)
    silent_since, told = time.monotonic(), False
    try:
        over = _catch_up(display, past)
        while follow and not over:
            sleep(_SECONDS_BETWEEN_LOOKS)
            fresh = list(records.new())
            over = _show(display, fresh)
            if fresh or _is_alive(run_dir):
                silent_since, told = time.monotonic(), False
            elif not told and time.monotonic() - silent_since > _SILENCE_SECONDS:
                told = True
                display.say(
                    f"nothing has moved for {_SILENCE_SECONDS:.0f} s: it has stopped (its "
                    "command again goes on where it was), or this host does not see its files yet"
                )
        return over
    finally:
        display.stop()


def _catch_up(display: Display, records: list[dict[str, Any]]) -> bool:
    """The newest figures of what is past; whether the closing evaluation was among them."""
    if not records:
        return False
    newest: dict[str, Any] = {}
    for record in records:
        newest |= record
    display.update(Progress(newest["env_steps"], newest["updates"]), newest)
    for section in ("evaluation", "closing"):
        told = [record for record in records if f"{section}/return_mean" in record]
        for record in told[-1:]:
            _say(display, record, section)
    return "closing/return_mean" in records[-1]


def _show(display: Display, records: list[dict[str, Any]]) -> bool:
    """Whether the closing evaluation was among them."""
    for record in records:
        progress = Progress(record["env_steps"], record["updates"])
        display.update(progress, record)
        if "evaluation/return_mean" in record:
            _say(display, record, "evaluation")
        if "closing/return_mean" in record:
            _say(display, record, "closing")
    return bool(records) and "closing/return_mean" in records[-1]


def _say(display: Display, record: dict[str, Any], section: str) -> None:
    display.say(
        f"{section} at {record['env_steps']:,} env steps: {record[f'{section}/return_mean']:.1f} ± "
        f"{record[f'{section}/return_std']:.1f} over {record[f'{section}/episodes']:.0f} episodes"
    )


def _is_alive(run_dir: RunDirectory) -> bool:
    """Whether a rank has given a sign of life lately."""
    now = time.time()
    try:
        ages = [now - file.stat().st_mtime for file in run_dir.heartbeats.glob("rank-*.json")]
    except OSError:
        return False
    return any(age < _SILENCE_SECONDS for age in ages)
