"""Experience replay: a ring that stores each frame once, with uniform or prioritised sampling."""

from hvd_dqn.replay.buffer import ReplayBuffer
from hvd_dqn.replay.experience import Experience
from hvd_dqn.replay.ring import Ring
from hvd_dqn.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from hvd_dqn.replay.sum_tree import SumTree

__all__ = [
    "Experience",
    "PrioritizedSampler",
    "ReplayBuffer",
    "Ring",
    "Sampler",
    "SumTree",
    "UniformSampler",
]
