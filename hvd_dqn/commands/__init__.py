"""The commands of `hvd-dqn`. Each is a module whose `run(arguments)` returns the exit code."""
