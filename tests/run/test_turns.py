"""Ranks that iterate by themselves spend the budget exactly and rest when they must."""

from itertools import count

import pytest

from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.pace import make_pace
from hvd_dqn.run.turns import Apart, next_rest
from tests.distributed.workers import small_config
from tests.replay.log import WAITS, World

CLAIM = 8  # env steps of an iteration of `small_config`


@pytest.mark.parametrize("periods", [(300,), (300, 1000), (7, 5, 3), (10_000,)])
def test_the_next_rest_is_the_first_end_of_a_period(periods):
    for now in range(0, 2400, 13):
        ends = (later for later in count(now + 1) if any(later % p == 0 for p in periods))
        assert next_rest(now, 2400, periods) == min(next(ends), 2400)


class Memory:
    """Counters that other ranks have changed meanwhile."""

    def __init__(self, others):
        self.value, self.others = 0, others

    def add(self, counter, number):
        self.value += self.others
        before, self.value = self.value, self.value + number
        return before

    def store(self, counter, number):
        self.value = number


class Server:
    def __init__(self, others=0):
        self.memory, self.failure, self.updates, self.rests = Memory(others), None, 0, 0

    def rest(self):
        self.rests += 1


def apart(learner, must_stop=lambda: False):
    config = small_config().changed({"distributed.average": "server"})
    pace, progress = make_pace(config, world_size=2), Progress()
    assert pace.env_steps_per_iteration == CLAIM
    turns = Apart(
        progress, pace, LocalCommunicator(), learner, periods=(300, 1000), must_stop=must_stop
    )
    return turns, progress


def test_iterations_are_claimed_until_the_next_rest():
    turns, progress = apart(learner := Server())
    claimed = []
    taken = turns.take(lambda: claimed.append(progress.env_steps))
    assert claimed == list(range(0, 300, CLAIM)), "the last one may pass the end of the period"
    assert taken == progress.env_steps == 304
    assert learner.rests == 1
    assert turns.take(lambda: None) == 296, "up to 600"


def test_steps_that_others_claim_are_not_taken_again():
    turns, _ = apart(Server(others=2 * CLAIM))
    iterations = []
    assert turns.take(lambda: iterations.append(1)) == CLAIM * len(iterations)
    assert len(iterations) == 12, "of the 38 up to 304, the others took two thirds"


@pytest.mark.parametrize("why", ["asked", "failed"])
def test_a_rank_that_must_rest_closes_the_budget(why):
    learner, asked = Server(), []
    turns, progress = apart(learner, must_stop=lambda: bool(asked))

    def iterate():
        if progress.env_steps == 5 * CLAIM:
            asked.extend([1] if why == "asked" else [])
            learner.failure = None if why == "asked" else [0.0, 0.0]

    assert turns.take(iterate) == 6 * CLAIM
    assert learner.memory.value > 10**15, "no other rank gets a claim"
    assert turns.is_stopping(why == "asked") is (why == "asked")


def test_a_rank_may_update_once_it_can_sample():
    world = World(capacity=60, num_envs=2, n_step=3)
    turns, _ = apart(Server())
    for step in range(6):
        can_sample = bool(world.valid())
        assert turns.may_update(world.replay) == can_sample == (step >= 3)
        if can_sample:
            world.replay.sample()
        world.step([None, WAITS])
