"""Loggers send records to TensorBoard, Weights & Biases, MLflow or a class of your own, besides the
files of the run. Only the root has loggers.
"""

from hvd_dqn.reporting.loggers.logger import LoggedRun, Logger, Outcome
from hvd_dqn.reporting.loggers.opening import Loggers, open_loggers, require_loggers

__all__ = ["LoggedRun", "Logger", "Loggers", "Outcome", "open_loggers", "require_loggers"]
