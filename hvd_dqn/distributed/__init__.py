"""Communication between ranks: the Communicator and its backends."""

from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect

__all__ = ["Communicator", "connect"]
