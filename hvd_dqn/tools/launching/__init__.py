"""Start ranks with any launcher, restart them after failures, and stop them with a checkpoint."""
