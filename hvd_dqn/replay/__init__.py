"""Experience: a replay, which is a ring that stores each frame once, with uniform or prioritised
sampling; or rollouts.
"""

from hvd_dqn.replay.buffer import ReplayBuffer
from hvd_dqn.replay.experience import Experience
from hvd_dqn.replay.ring import Ring
from hvd_dqn.replay.rollout import Rollout
from hvd_dqn.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from hvd_dqn.replay.sum_tree import SumTree

__all__ = [
    "Experience",
    "PrioritizedSampler",
    "ReplayBuffer",
    "Ring",
    "Rollout",
    "Sampler",
    "SumTree",
    "UniformSampler",
]
