"""Checks of an installation, of a node and of all ranks of a launch."""
