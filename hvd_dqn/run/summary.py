"""How a run ended, and the file that keeps it: `final.json`."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any, NamedTuple

from hvd_dqn.acting.evaluation import EvaluationResult
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import publish, read_bounded
from hvd_dqn.common.structs import Progress
from hvd_dqn.run.directory import RunDirectory

_LIMIT = 64 << 20


class Summary(NamedTuple):
    """How a run ended; the same on every rank, except `seconds`, which are this rank's.

    `stopped` says why if a callback ended the run before its budget was spent. `is_repeated` says
    that the run had ended before this call, which did nothing.
    """

    score: EvaluationResult
    last_mean: float
    progress: Progress
    seconds: float
    stopped: str = ""
    is_repeated: bool = False


def save_summary(run_dir: RunDirectory, summary: Summary) -> None:
    """Write `final.json`. If the disk refuses it, a repeated command evaluates again."""
    values = {
        "env_steps": summary.progress.env_steps,
        "updates": summary.progress.updates,
        "seconds": round(summary.seconds, 3),
        "last_mean": summary.last_mean if math.isfinite(summary.last_mean) else None,
        "returns": summary.score.returns,
        "lengths": summary.score.lengths,
        "stopped": summary.stopped,
    }
    with contextlib.suppress(OSError):
        publish(run_dir.final_file, (json.dumps(values) + "\n").encode())


def read_final(run_dir: RunDirectory) -> dict[str, Any] | None:
    """Return the contents of `final.json`, or `None` if it is missing or damaged."""
    try:
        values: dict[str, Any] = json.loads(read_bounded(run_dir.final_file, _LIMIT, follow=True))
        _ = summary_of(values)
    except (UserError, OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return values


def summary_of(values: dict[str, Any]) -> Summary:
    """Return the summary with these `values` of `final.json`, as that of a repeated run."""
    last_mean = values["last_mean"]
    return Summary(
        EvaluationResult(
            [float(value) for value in values["returns"]],
            [int(value) for value in values["lengths"]],
        ),
        math.nan if last_mean is None else float(last_mean),
        Progress(int(values["env_steps"]), int(values["updates"])),
        float(values["seconds"]),
        str(values["stopped"]),
        is_repeated=True,
    )
