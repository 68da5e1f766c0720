"""How ranks act as one: a Communicator with three backends, and the one flat buffer an update
travels in.
"""

from hvd_dqn.distributed.communicator import Communicator
from hvd_dqn.distributed.connect import connect
from hvd_dqn.distributed.flat import FlatParameters, UpdateBuffer

__all__ = ["Communicator", "FlatParameters", "UpdateBuffer", "connect"]
