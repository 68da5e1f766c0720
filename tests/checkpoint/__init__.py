"""Tests of checkpoints on disk and elsewhere."""
