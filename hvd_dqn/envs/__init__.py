"""One vector environment from an id; it keeps true returns apart from the learner's rewards."""

from hvd_dqn.envs.make import make_env, make_vector_env
from hvd_dqn.envs.vector import EnvStep, EpisodesLostError, VectorEnvironment
from hvd_dqn.envs.wrappers import IntegerActions

__all__ = [
    "EnvStep",
    "EpisodesLostError",
    "IntegerActions",
    "VectorEnvironment",
    "make_env",
    "make_vector_env",
]
