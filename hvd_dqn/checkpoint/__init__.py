"""Checkpoints: everything that a run needs to go on bit for bit, saved beside the training."""

from hvd_dqn.checkpoint.store import DamageError, Store, open_store
from hvd_dqn.checkpoint.writer import SaveError, Saver

__all__ = ["DamageError", "SaveError", "Saver", "Store", "open_store"]
