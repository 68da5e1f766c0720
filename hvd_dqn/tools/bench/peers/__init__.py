"""What other people train DQN with, at the same work: each a script for a Python of its own, which
prints one JSON line of rates. Nothing here is imported by the rest of the package.

    python with_stable_baselines3.py '{"env_id": "CartPole-v1", …}'

The work is that of rl-baselines3-zoo's CartPole (see `compare.WORK`).
"""
