"""Experience replay: an exact ring, each frame stored once."""

from hvd_dqn.replay.ring import ReplayBuffer

__all__ = ["ReplayBuffer"]
