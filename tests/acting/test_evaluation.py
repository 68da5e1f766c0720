"""Which episodes are played, by whom, and that none is counted for being short."""

from collections import Counter

import numpy as np
import pytest

from hvd_dqn.acting.evaluation import CLOSING, PERIODIC, Evaluator
from hvd_dqn.config import EnvConfig, EvaluationConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from tests.short_runs import run_of


class OneOf(LocalCommunicator):
    """Stands where rank `rank` of `world_size` would; its gather holds its own part alone."""

    def __init__(self, rank, world_size):
        self.rank, self.world_size = rank, world_size


def seeds_played(evaluator, episodes=11, purpose=PERIODIC):
    """The first observation of the toy names the episode's seed."""
    seeds = []

    def policy(obs):
        seeds.extend(int(o[0]) for o in obs if o[1] == 0)
        return np.zeros(len(obs), dtype=np.int64)

    result = evaluator.evaluate(policy, episodes=episodes, purpose=purpose)
    return seeds, result


def make(comm, *, num_envs=3):
    env = EnvConfig(id="tests.envs.toy:ToyCounting-v0", num_envs=num_envs)
    return Evaluator(env, EvaluationConfig(), seed=5, communicator=comm)


@pytest.mark.parametrize("num_envs", [1, 3, 20])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_episode_is_played_once_whatever_the_ranks(world_size, num_envs):
    reference, _ = seeds_played(make(LocalCommunicator(), num_envs=1))
    played, returns = Counter(), []
    for rank in range(world_size):
        seeds, result = seeds_played(make(OneOf(rank, world_size), num_envs=num_envs))
        played.update(seeds)
        returns += result.returns
    # slots that are done go on stepping, so some further episodes begin; none of them counts
    assert len(returns) == 11
    assert set(reference[:11]) <= set(played)


def test_more_ranks_than_episodes():
    counts = [len(seeds_played(make(OneOf(rank, 4)), episodes=2)[1].returns) for rank in range(4)]
    assert counts == [1, 1, 0, 0]


def test_an_evaluation_repeats_and_purposes_differ():
    evaluator = make(LocalCommunicator())
    first, again = seeds_played(evaluator)[0], seeds_played(evaluator)[0]
    assert first == again
    assert set(first).isdisjoint(seeds_played(evaluator, purpose=CLOSING)[0])


class Uneven:
    """An environment stand-in whose slots end after 1 and after 10 steps."""

    num_envs = 2

    def __init__(self):
        self.time = 0

    def reset(self):
        self.time = 0
        return np.zeros((2, 1))

    def step(self, action):
        from hvd_dqn.common.structs import EnvStep, Episode

        self.time += 1
        ended = np.array([True, self.time % 10 == 0])
        episodes = [Episode(1.0, 1)] + [Episode(10.0, 10)] * int(ended[1])
        obs = np.zeros((2, 1))
        return EnvStep(obs, obs, np.ones(2), ended, np.zeros(2, bool), ended, episodes)


def test_short_episodes_are_not_counted_more_often():
    evaluator = make(LocalCommunicator(), num_envs=2)
    evaluator.close()
    evaluator.envs = Uneven()
    result = evaluator.evaluate(
        lambda obs: np.zeros(2, dtype=np.int64), episodes=8, purpose=PERIODIC
    )
    assert sorted(result.returns) == [1.0] * 4 + [10.0] * 4
    assert result.mean == 5.5
    assert result.std == 4.5


def test_whole_games_are_scored_where_lives_are_lost():
    from hvd_dqn.envs import VectorEnvironment
    from tests.envs.scripted import ScriptedSimulators, bytes_space

    evaluator = make(LocalCommunicator(), num_envs=1)
    evaluator.close()
    simulators = ScriptedSimulators(bytes_space(1), [["life"], [None], ["terminated"]] * 3)
    evaluator.envs = VectorEnvironment(
        simulators, episode_seed=lambda copy, number: number, reward_clip=0.5
    )
    result = evaluator.evaluate(
        lambda obs: np.zeros(1, dtype=np.int64), episodes=3, purpose=PERIODIC
    )
    assert result.returns == [3.0] * 3
    assert result.lengths == [3] * 3


def test_a_long_evaluation_says_how_far_it_is(monkeypatch):
    from hvd_dqn.acting import evaluation

    monkeypatch.setattr(evaluation, "_SECONDS_BETWEEN_LINES", -1.0)
    evaluator = make(LocalCommunicator(), num_envs=2)
    lines = []
    evaluator.say = lines.append
    evaluator.evaluate(lambda obs: np.zeros(2, dtype=np.int64), episodes=3, purpose=PERIODIC)
    evaluator.close()
    assert lines[0] == "evaluating: 0 of 3 episodes of this rank, after 1 steps of each environment"
    assert "evaluating: 2 of 3" in "".join(lines)


@pytest.mark.parametrize(("env_id", "has_limit"), [("Counting", False), ("Ring", True)])
def test_a_limit_that_is_not_the_environments_is_announced(env_id, has_limit, tmp_path, capsys):
    run_of(tmp_path / "run", {"env.id": f"tests.envs.toy:Toy{env_id}-v0"})
    line = "declares no time limit: episodes of evaluations are cut after 20 steps"
    assert (line in capsys.readouterr().out) is not has_limit
