"""Environments on solver ranks, which are threads here: what a learner gets, and faults."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config, EnvConfig
from hvd_dqn.distributed.solvers import SolverLink, SolverPlace, SolverRank
from hvd_dqn.envs import EpisodesLostError, make_vector_env, solvers
from hvd_dqn.envs.interface import EnvironmentFailedError, GroupLostError
from hvd_dqn.envs.serving import obey


class Posts:
    """The mailboxes of a job: JSON and bytes, as MPI would carry them."""

    def __init__(self, ranks):
        self.boxes = [queue.Queue() for _ in range(ranks)]


class Mailbox:
    def __init__(self, posts, rank):
        self.posts, self.rank = posts, rank

    def send(self, rank, header, payload=b""):
        self.posts.boxes[rank].put((self.rank, json.loads(json.dumps(header)), bytes(payload)))

    def wait(self, deadline=float("inf"), on_wait=lambda: None):
        while True:
            on_wait()
            try:
                return self.posts.boxes[self.rank].get(timeout=0.02)
            except queue.Empty:
                if time.monotonic() > deadline:
                    return None

    def flush(self):
        """Nothing waits."""


class Group:
    """A communicator whose ranks have a barrier."""

    def __init__(self, rank, barrier):
        self.rank, self.barrier, self.size = rank, barrier, barrier.parties

    def Get_rank(self):  # noqa: N802 (of mpi4py)
        return self.rank

    def Dup(self):  # noqa: N802
        return self


class FakeMpi:
    THREAD_MULTIPLE = 3

    @staticmethod
    def Query_thread():  # noqa: N802
        return 3


@pytest.fixture
def job(monkeypatch):
    """A function that starts the solver ranks of one learner as threads. They end with the test."""
    links = []

    def start(num_envs, size):
        posts = Posts(1 + num_envs * size)
        groups = []
        for group in range(num_envs):
            barrier = threading.Barrier(size)
            first = 1 + group * size
            groups.append([SolverPlace(first + n, f"node{n}", [0]) for n in range(size)])
            for n in range(size):
                rank = SolverRank(Mailbox(posts, first + n), Group(n, barrier), 0)
                threading.Thread(target=obey, args=(rank,), daemon=True).start()
        links.append(SolverLink(FakeMpi, Mailbox(posts, 0), groups))
        monkeypatch.setattr(solvers, "solver_link", lambda: links[-1])

    yield start
    for link in links:
        for group in range(len(link.groups)):
            link.send(group, [-1, "end"])


class Together(gym.Env):
    """Observes (seed, steps, the last action) on rank 0 and nothing on others; every step meets at
    a barrier. At step `at` of its life, rank `rank` has the `fault`.
    """

    observation_space = gym.spaces.Box(-1e9, 1e9, (3,), np.float64)
    action_space = gym.spaces.Discrete(3, start=5)
    made = 0

    def __init__(self, comm, fault="", rank=1, at=4, length=6):
        self.comm, self.length = comm, length
        # By the number of the copy: the first raises, the second takes long.
        self.fault, self.at = (
            {0: "after", 1: "slow"}.get(fault, fault),
            at if comm.rank == rank else -1,
        )
        self.life = 0

    def reset(self, *, seed=None, options=None):
        self.seed, self.steps = seed % 1000, 0
        return self._obs(5), {}

    def step(self, action):
        self.life += 1
        self.steps += 1
        if self.life == self.at and self.fault in ("before", "hang", "exit"):
            if self.fault == "hang":
                time.sleep(3)
            elif self.fault == "exit":
                sys.exit(3)
            raise ValueError("diverged")
        if self.life == self.at and self.fault == "slow":
            time.sleep(0.6)
        self.comm.barrier.wait(timeout=3 if self.fault in ("before", "hang") else None)
        if self.life == self.at and self.fault == "after":
            raise ValueError("diverged")
        if self.life == self.at and self.fault == "shape":
            return np.zeros(2), 1.0, False, False, {}
        return self._obs(action), float(action), False, self.steps == self.length, {}

    def save(self, path):
        Path(path, "own.txt").write_text(f"{self.seed} {self.steps} {self.comm.rank}")
        assert len(list(Path(path).iterdir())) == 1, "each rank has a directory of its own"

    def load(self, path):
        self.seed, self.steps, rank = map(int, Path(path, "own.txt").read_text().split())
        assert rank == self.comm.rank

    def _obs(self, action):
        seen = np.array([self.seed, self.steps, action], np.float64)
        return seen if self.comm.rank == 0 else None


def vector(num_envs, size, *, restarts=0, step_seconds=20.0, **kwargs):
    config = EnvConfig(
        id=f"{__name__}:Together",
        num_envs=num_envs,
        ranks_per_env=size,
        restarts=restarts,
        step_seconds=step_seconds,
        kwargs=json.dumps(kwargs),
    )
    return make_vector_env(
        config, num_envs=num_envs, episode_seed=lambda copy, k: 100 * copy + k, rank=7
    )


def test_every_group_steps_its_environment_and_rank_0_of_it_is_heard(job):
    job(2, 2)
    envs = vector(2, 2)
    assert (envs.num_actions, envs.raw_space) == (3, Together.observation_space)
    np.testing.assert_array_equal(envs.reset(), [[0, 0, 5], [100, 0, 5]])
    for number in range(1, 6):
        step = envs.step(np.array([0, 2]))
        np.testing.assert_array_equal(step.next_obs, [[0, number, 5], [100, number, 7]])
        np.testing.assert_array_equal(step.reward, [5, 7])
    step = envs.step(np.array([1, 1]))
    assert step.truncated.all()
    np.testing.assert_array_equal(step.obs, [[1, 0, 5], [101, 0, 5]], "the next episode")
    assert [episode.episode_return for episode in step.episodes] == [31, 41]
    envs.close()


def test_a_step_in_the_background(job):
    job(1, 2)
    envs = vector(1, 2)
    envs.reset()
    envs.begin(np.array([2]))
    np.testing.assert_array_equal(envs.finish().next_obs, [[0, 1, 7]])
    envs.close()


def test_each_rank_saves_and_loads_its_part(job, capsys):
    job(2, 2)
    envs = vector(2, 2)
    envs.reset()
    for _ in range(4):
        envs.step(np.array([1, 0]))
    state = envs.state_dict()
    files = {name: bytes(text.tolist()) for name, text in state["saved"]["1"].items()}
    assert files == {"0-of-2:own.txt": b"100 4 0", "1-of-2:own.txt": b"100 4 1"}
    expected = [envs.step(np.array([2, 2])).next_obs for _ in range(2)]
    state["actions"] = torch.zeros_like(state["actions"])  # so that a replay would lead elsewhere
    assert not envs.load_state_dict(state).any()
    for obs in expected:
        np.testing.assert_array_equal(envs.step(np.array([2, 2])).next_obs, obs)
    envs.close()
    job(2, 1)
    envs = vector(2, 1)
    envs.reset()
    envs.load_state_dict(state)
    said = capsys.readouterr().err
    assert "it was saved on 2 ranks, and the environment has 1 now); episodes are replayed" in said


@pytest.mark.parametrize(
    ("fault", "size", "rank", "said"),
    [
        ("after", 2, 1, "solver rank 1 of 2 (rank 2 of the job, on node1): ValueError: diverged"),
        ("after", 3, 0, "solver rank 0 of 3 (rank 1 of the job, on node0): ValueError: diverged"),
        ("exit", 1, 0, "solver rank 0 of 1 (rank 1 of the job, on node0): SystemExit: 3"),
    ],
)
def test_an_error_names_its_rank_and_the_environments_are_made_again(
    job, capsys, fault, size, rank, said
):
    job(1, size)
    envs = vector(1, size, restarts=1, fault=fault, rank=rank)
    envs.reset()
    for _ in range(3):
        envs.step(np.array([1]))
    with pytest.raises(EpisodesLostError) as raised:
        envs.step(np.array([1]))
    said = f"copy 0 of rank 7, {said}"
    assert said in str(raised.value.__cause__)
    assert said in capsys.readouterr().err
    assert envs.obs[0, 0] == 1, "the next episode"
    for number in range(1, 4):
        np.testing.assert_array_equal(envs.step(np.array([2])).next_obs, [[1, number, 7]])
    with pytest.raises(EnvironmentFailedError, match=r"copy 0 of rank 7, solver rank"):
        envs.step(np.array([1]))
    envs.close()


def test_an_observation_of_another_shape_is_the_users_error(job):
    job(1, 2)
    envs = vector(1, 2, restarts=1, fault="shape", rank=0)
    envs.reset()
    for _ in range(3):
        envs.step(np.array([1]))
    with pytest.raises(UserError, match=r"rank 1 of the job, on node0\): .*shape"):
        envs.step(np.array([1]))


def test_ranks_that_wait_for_one_that_raised_lose_the_group(job, monkeypatch):
    monkeypatch.setattr(solvers, "_SECONDS_AFTER_ERROR", 0.2)
    job(1, 3)
    envs = vector(1, 3, restarts=5, fault="before")
    envs.reset()
    for _ in range(3):
        envs.step(np.array([1]))
    began = time.monotonic()
    with pytest.raises(GroupLostError) as raised:
        envs.step(np.array([1]))
    assert time.monotonic() - began < 2
    assert "solver rank 1 of 3 (rank 2 of the job, on node1): ValueError: div" in str(raised.value)
    assert "ranks 1, 3 of the job (on node0, node2) did not return from step()" in str(raised.value)


def test_a_group_that_computes_for_long_is_not_lost_by_the_error_of_another(job, monkeypatch):
    monkeypatch.setattr(solvers, "_SECONDS_AFTER_ERROR", 0.1)
    job(2, 1)
    envs = vector(2, 1, restarts=1, fault="{copy}", rank=0)
    envs.reset()
    for _ in range(3):
        envs.step(np.array([1, 1]))
    began = time.monotonic()
    with pytest.raises(EpisodesLostError) as raised:
        envs.step(np.array([1, 1]))
    assert time.monotonic() - began > 0.5
    assert "copy 0 of rank 7, solver rank 0 of 1" in str(raised.value.__cause__)


def test_a_group_that_hangs_is_named_in_time(job):
    job(2, 2)
    envs = vector(2, 2, restarts=5, step_seconds=0.3, fault="hang", rank=0)
    envs.reset()
    for _ in range(3):
        envs.step(np.array([1, 1]))
    with pytest.raises(GroupLostError) as raised:
        envs.step(np.array([1, 1]))
    assert str(raised.value) == (
        "copy 0 of rank 7: ranks 1, 2 of the job (on node0, node1) did not return from step() "
        "within 0.3 s (env.step-seconds)"
    )


def test_without_solver_ranks_and_for_pictures_it_is_refused(job):
    with pytest.raises(UserError, match=r"env.ranks-per-env = 2: these environments run on solver"):
        vector(1, 2)
    job(3, 2)
    with pytest.raises(UserError, match="one for each group"):
        vector(1, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "ALE/Pong-v5"}, "ALE steps Atari games in threads"),
        ({"vectorization": "async"}, "on ranks of their own; leave env.vectorization sync"),
    ],
)
def test_settings_that_do_not_go_with_solver_ranks(changes, reason):
    with pytest.raises(UserError, match=rf"env.ranks-per-env = 2: .*{reason}"):
        EnvConfig(ranks_per_env=2, **changes)


@pytest.mark.parametrize(("option", "value"), [("evaluation.envs", "own"), ("logging.video", True)])
def test_there_are_ranks_for_the_training_environments_only(option, value):
    config = Config().changed({option: value})
    with pytest.raises(UserError, match=f"{option} = {value!r}: .*env.ranks-per-env"):
        config.changed({"env.ranks_per_env": 1})
