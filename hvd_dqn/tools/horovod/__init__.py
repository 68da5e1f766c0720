"""Building Horovod against this torch and this MPI, with our changes."""
