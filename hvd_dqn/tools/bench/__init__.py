"""Benchmarks of training, sums over ranks and scaling (`hvd-dqn bench`)."""
