"""Loggers by their names, and several as one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hvd_dqn.errors import UserError
from hvd_dqn.loggers.logger import LoggedRun, Logger, Outcome

_KNOWN = {
    "tensorboard": ("hvd_dqn.loggers.tensorboard", "TensorBoard"),
    "wandb": ("hvd_dqn.loggers.wandb", "WeightsAndBiases"),
    "mlflow": ("hvd_dqn.loggers.mlflow", "MLflow"),
}


class Loggers:
    """All of a run's. One that raises is left out from then on."""

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._loggers = dict(loggers)
        self._outcome: Outcome = "stopped"

    def scalars(self, env_steps: int, metrics: Mapping[str, float]) -> None:
        """See `Logger`. What is of single ranks is left out: a curve for each of a thousand helps
        nobody. The closing evaluation's make it a run that has finished.
        """
        chosen = {name: value for name, value in metrics.items() if not name.startswith("rank/")}
        self._tell(lambda logger: logger.scalars(env_steps, chosen))
        if "closing/return_mean" in metrics:
            self._outcome = "finished"

    def histograms(self, env_steps: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Logger`."""
        self._tell(lambda logger: logger.histograms(env_steps, values))

    def video(self, env_steps: int, path: Path) -> None:
        """See `Logger`."""
        self._tell(lambda logger: logger.video(env_steps, path))

    def close(self) -> None:
        """See `Logger`."""
        self._tell(lambda logger: logger.close(self._outcome))
        self._loggers = {}

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:  # a curve is not worth a run
                del self._loggers[name]
                print(
                    f"hvd-dqn: nothing more for {name}: {type(error).__name__}: {error}",
                    file=sys.stderr,
                    flush=True,
                )


def open_loggers(names: Sequence[str], run: LoggedRun) -> Loggers:
    """Those of `logging.loggers`. `UserError` where one cannot be had."""
    loggers: dict[str, Logger] = {}
    for name in names:
        try:
            loggers[name] = _class_of(name)(run)
        except UserError:
            Loggers(loggers).close()
            raise
        except Exception as error:  # the libraries raise what they like
            Loggers(loggers).close()
            raise UserError(
                f"logging.loggers: {name} cannot begin: {type(error).__name__}: "
                f"{' '.join(str(error).split())}",
                "mend that, or leave it out",
            ) from error
    return Loggers(loggers)


def require_loggers(names: Sequence[str]) -> None:
    """`UserError` where one cannot be imported; writes nothing."""
    for name in names:
        _class_of(name)


def _class_of(name: str) -> Callable[[LoggedRun], Logger]:
    module, kind = _KNOWN.get(name) or name.split(":", 1)
    try:
        made: Callable[[LoggedRun], Logger] = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        extra = f"pip install 'hvd_dqn[{name}]', or " if name in _KNOWN else ""
        raise UserError(
            f"logging.loggers: {name} needs the module {error.name!r}, which is not here",
            f"{extra}leave it out",
        ) from error
    except AttributeError as error:
        raise UserError(f"logging.loggers: {module} has no {kind!r}") from error
    return made
