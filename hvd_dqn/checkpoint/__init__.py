"""Checkpoints hold everything that a run needs to resume bit for bit; they are written while
training continues.
"""

from hvd_dqn.checkpoint.store import DamageError, Store, open_store
from hvd_dqn.checkpoint.writer import SaveError, Saver

__all__ = ["DamageError", "SaveError", "Saver", "Store", "open_store"]
