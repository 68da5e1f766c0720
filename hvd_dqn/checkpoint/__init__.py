"""Checkpoints: everything that a run needs to go on bit for bit, saved beside the training."""

from hvd_dqn.checkpoint.saving import SaveError, Saver
from hvd_dqn.checkpoint.store import DamageError, Store, open_store

__all__ = ["DamageError", "SaveError", "Saver", "Store", "open_store"]
