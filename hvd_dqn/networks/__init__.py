"""Action-value networks."""

from hvd_dqn.networks.qnetwork import QNetwork, make_network

__all__ = ["QNetwork", "make_network"]
