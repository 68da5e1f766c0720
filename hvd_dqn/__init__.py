"""Distributed Deep Q-Network training on MPI clusters, with Horovod."""

__version__ = "0.1.0"
