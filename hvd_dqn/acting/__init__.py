"""Acting in environments: greedy policies, exploration, the actor, evaluation."""
