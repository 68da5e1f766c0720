"""The commands of `hvd-dqn`, a module each, with `run(arguments)` that returns an exit code."""
