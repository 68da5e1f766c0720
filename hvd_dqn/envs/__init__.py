"""One vector environment from an id; it keeps true returns apart from the learner's rewards."""

from hvd_dqn.envs.make import make_env, make_vector_env
from hvd_dqn.envs.vector import EpisodesLostError, VectorEnvironment
from hvd_dqn.envs.wrappers import IntegerActions

__all__ = [
    "EpisodesLostError",
    "IntegerActions",
    "VectorEnvironment",
    "make_env",
    "make_vector_env",
]
