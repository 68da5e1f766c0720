"""How ranks act as one: a Communicator with three backends, the one flat buffer of an update."""

from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect

__all__ = ["Communicator", "connect"]
