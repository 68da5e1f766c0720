"""Example environments, networks and scripts."""
