"""What the root writes and shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.reporting.display import Display, make_display
from hvd_dqn.reporting.loggers import LoggedRun, open_loggers
from hvd_dqn.reporting.sinks import FileSink, NullSink, Sink
from hvd_dqn.reporting.videos import EpisodeRecorder
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.start import Start
from hvd_dqn.run.watchdog import Watchdog


@dataclass
class Outputs:
    """Records, display and videos of the root; on other ranks, objects that keep nothing."""

    sink: Sink = field(default_factory=NullSink)
    display: Display = field(default_factory=Display)
    recorder: EpisodeRecorder | None = None


def open_outputs(
    config: Config,
    facts: dict[str, Any],
    run_dir: RunDirectory,
    start: Start,
    watchdog: Watchdog,
    wants_stop: Callable[[], bool],
    *,
    on_close: ExitStack,
    unlock: ExitStack,
) -> Outputs:
    """Create or reopen the run directory and open everything that the root writes to.

    `on_close` closes the outputs; `unlock`, which closes later, releases the run directory. Raises
    `UserError` if the directory cannot be written or another run has created it.
    """
    recorder = None
    if config.logging.video:
        try:
            recorder = EpisodeRecorder(
                config, seed=config.seed, on_step=watchdog.touch, should_stop=wants_stop
            )
        except UserError:
            start.store.remove_empty()
            raise
        on_close.callback(recorder.close)
    facts = _open_directory(config, facts, run_dir, start, unlock)
    name = run_dir.path.resolve().name
    logged = LoggedRun(str(facts["id"]), name, run_dir.path, config.flat(), start.env_steps)
    try:
        required = start.env_steps == 0 and not start.continues
        loggers = open_loggers(config.logging.loggers, logged, required=required)
    except UserError:
        run_dir.discard()
        raise
    sink = FileSink(run_dir.path, loggers, position=start.metrics_bytes)
    on_close.callback(_close_patiently, sink, watchdog)
    display = make_display(config.total_env_steps)
    on_close.callback(display.stop)
    return Outputs(sink, display, recorder)


def _open_directory(
    config: Config, facts: dict[str, Any], run_dir: RunDirectory, start: Start, unlock: ExitStack
) -> dict[str, Any]:
    """Create the run directory, or reopen it if the run resumes in it. Returns its facts."""
    if start.manifest is not None:
        facts["from"] = {
            "checkpoint": f"{start.source}/{start.manifest.directory}",
            "world_size": len(start.manifest.ranks),
            "changed": dict(start.changed),
            "passed_over": list(start.passed_over),
        }
    if start.continues:
        facts = run_dir.reopen(config, facts)
    else:
        run_dir.create(config, facts)
        unlock.callback(run_dir.lock().close)
    run_dir.clear_signs()
    return facts


def _close_patiently(sink: Sink, watchdog: Watchdog) -> None:
    """Close `sink`, whose loggers may have records to send over a slow network."""
    with watchdog.patience():
        sink.close()
