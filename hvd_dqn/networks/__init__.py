"""Action-value networks."""

from hvd_dqn.networks.qnetwork import QNetwork, hidden_multiply_adds, make_network

__all__ = ["QNetwork", "hidden_multiply_adds", "make_network"]
