"""Build Horovod against the installed torch and MPI, with our patches."""
