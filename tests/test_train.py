"""The training loop: the order of its work, and what it passes to its parts."""

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from hvd_dqn.acting.greedy import LatePolicy
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.distributed.watched import WatchedCommunicator
from hvd_dqn.envs import VectorEnvironment
from hvd_dqn.envs.simulators import SerialSimulators
from hvd_dqn.learner.gradients import GradientAveragingLearner
from hvd_dqn.replay import PrioritizedSampler, ReplayBuffer
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.training import train
from tests.distributed.workers import sha256, small_config


def order_of_work(monkeypatch, tmp_path, **changes):
    """Return the calls to environments, replay and learner, one letter each."""
    done = []

    def tell(owner, name, letter):
        inner = getattr(owner, name)

        def telling(*args, **kwargs):
            done.append(letter)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, telling)

    tell(VectorEnvironment, "begin", "b")
    tell(VectorEnvironment, "finish", "f")
    tell(ReplayBuffer, "add", "a")
    tell(ReplayBuffer, "_draw", "d")
    tell(GradientAveragingLearner, "finish", "u")
    config = small_config().changed(
        {"learning_starts_env_steps": 0, "total_env_steps": 80, "updates_per_iteration": 2}
        | changes
    )
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    return "".join(done)


def test_updates_follow_the_step(monkeypatch, tmp_path):
    assert order_of_work(monkeypatch, tmp_path) == "aaduu" * 10


def test_an_overlapped_update_samples_from_the_replay_before_the_step(monkeypatch, tmp_path):
    overlapped = {"env.overlap_updates": True}
    # a two-step window is complete after the second step, and the updates of the third see it
    first, later = "abfa", "abduufa"
    assert order_of_work(monkeypatch, tmp_path, **overlapped) == first + later * 9


def test_environments_of_this_thread_step_during_the_allreduce(monkeypatch, tmp_path):
    done = []
    for owner, name in (
        (GradientAveragingLearner, "start"),
        (GradientAveragingLearner, "finish"),
        (SerialSimulators, "step"),
    ):
        inner = getattr(owner, name)

        def telling(*args, inner=inner, name=name, **kwargs):
            done.append(name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, telling)
    config = small_config().changed(
        {"env.overlap_updates": True, "learning_starts_env_steps": 0, "total_env_steps": 80,
         "updates_per_iteration": 1, "evaluation.max_episode_steps": 1}
    )  # fmt: skip
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    first = done.index("start")
    assert done[first : first + 3] == ["start", "step", "finish"]


def test_overlapped_acting_uses_the_network_before_the_last_updates(monkeypatch, tmp_path):
    after_updates, used = [], []
    finish, values = GradientAveragingLearner.finish, LatePolicy.values

    def finishing(self):
        if not after_updates:
            after_updates.append(sha256(self.online_parameters.values))
        finish(self)
        after_updates.append(sha256(self.online_parameters.values))

    def acting(self, obs):
        own = torch.cat([p.reshape(-1) for p in self._network.parameters()])
        used.append((len(after_updates) - 1, sha256(own)))
        return values(self, obs)

    monkeypatch.setattr(GradientAveragingLearner, "finish", finishing)
    monkeypatch.setattr(LatePolicy, "values", acting)
    config = small_config().changed(
        {"env.overlap_updates": True, "env.overlap_acting": True, "total_env_steps": 400,
         "updates_per_iteration": 2}
    )  # fmt: skip
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    with_updates = [(updates, own) for updates, own in used if updates > 0]
    assert len(with_updates) > 20
    assert len(set(after_updates)) == len(after_updates)
    for updates, own in with_updates:
        assert own == after_updates[updates - 2]


def test_a_step_in_a_thread_does_not_reset_the_wait_for_other_ranks(monkeypatch, tmp_path):
    """Otherwise a rank whose neighbour hangs would blame itself."""
    threads = set()
    beat, touch = Watchdog.beat, Watchdog.touch

    def beating(self, *, waiting=False):
        threads.add(threading.current_thread())
        beat(self, waiting=waiting)

    touched = []

    def touching(self):
        touched.append(threading.current_thread())
        touch(self)

    monkeypatch.setattr(Watchdog, "beat", beating)
    monkeypatch.setattr(Watchdog, "touch", touching)
    config = small_config().changed(
        {"env.overlap_updates": True, "env.vectorization": "async", "total_env_steps": 400}
    )
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert threads == {threading.main_thread()}
    assert any(thread.name.startswith("environments") for thread in touched)


def test_the_watchdog_knows_when_a_rank_waits_in_a_sum():
    told = []

    class Inner(LocalCommunicator):
        def start_sum(self, tensor, name, *, overlap=False):
            told.append("start")

        def finish_sum(self):
            told.append("finish")

    class Watch:
        def beat(self, *, waiting=False):
            told.append(waiting)

    comm = WatchedCommunicator(Inner(), Watch())
    comm.start_sum(Tensor(), "sum")
    comm.finish_sum()
    assert told == [True, "start", False, True, "finish", False]


def test_prioritised_updates_use_the_scheduled_exponent_and_return_priorities(
    tmp_path, monkeypatch
):
    exponents, errors = [], []
    draw, update = PrioritizedSampler.draw, PrioritizedSampler.update_priorities

    def drawing(self, count, importance_exponent):
        assert len(errors) == len(exponents), "after the priorities of the batch before"
        exponents.append(importance_exponent)
        return draw(self, count, importance_exponent)

    def updating(self, slot, priority):
        errors.append(float(priority.mean()))
        update(self, slot, priority)
        leaves = (priority.double().numpy() + 1e-6) ** 0.6
        last = {int(s): leaf for s, leaf in zip(slot, leaves, strict=True)}
        assert self._tree.leaves[list(last)] == pytest.approx(list(last.values()))

    monkeypatch.setattr(PrioritizedSampler, "draw", drawing)
    monkeypatch.setattr(PrioritizedSampler, "update_priorities", updating)
    config = small_config().changed(
        {
            "replay.sampling": "prioritized",
            "replay.importance_exponent_initial": 0.2,
            "replay.importance_exponent_final": 0.8,
            "total_env_steps": 800,
            "distributed.threads_per_rank": 1,
        }
    )
    summary = train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert summary.progress.updates == len(exponents) == len(errors) > 200
    assert all(error > 0 for error in errors)
    # four updates after each iteration of 8 env steps, from 200 env steps on
    expected = [0.2 + 0.6 * env_steps / 800 for env_steps in range(200, 801, 8)]
    assert exponents == pytest.approx(np.repeat(expected, 4).tolist())
