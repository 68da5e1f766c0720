"""Acting in environments by a network: exploration, the actor, greedy policies, evaluation."""
