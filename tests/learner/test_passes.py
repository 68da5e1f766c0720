"""The compiled passes compared with the eager ones, and when they are rejected."""

import os
import time

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn import training
from hvd_dqn.common.errors import UserError
from hvd_dqn.common.structs import FRACTIONS, Batch, ReplayShare
from hvd_dqn.config import Config, ConfigError, NetworkConfig, ObjectiveConfig, OptimizerConfig
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import base
from hvd_dqn.learner.base import TargetUpdate
from hvd_dqn.learner.gradients import GradientAveragingLearner
from hvd_dqn.learner.passes import EagerPasses
from hvd_dqn.methods.method import LossTerms
from hvd_dqn.methods.registry import make_network, make_objective, require_method
from hvd_dqn.run import requirements
from hvd_dqn.run.assembly import assemble
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.training import train
from tests.distributed import workers
from tests.distributed.workers import small_config

VECTORS = gym.spaces.Box(-1, 1, (4,))
IMAGES = gym.spaces.Box(0, 1, (4, 10, 10), np.uint8)


def make_learner(network, objective, space, **options):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    online, target = (
        make_network(network, objective, obs_space=space, num_actions=3, device=torch.device("cpu"))
        for _ in range(2)
    )
    return GradientAveragingLearner(
        online=online,
        target=target,
        objective=make_objective(objective, generator),
        config=OptimizerConfig(**options),
        rate=lambda updates: 1e-3,
        target_update=TargetUpdate(7),
        communicator=LocalCommunicator(),
        generator=generator,
    )


def batches(space, count, size=16):
    rng = np.random.default_rng(0)
    for number in range(count):
        # Observations of a replay may be strided like this.
        both = rng.integers(0, 2, (size, 2, *space.shape)).astype(space.dtype)
        weight = rng.random(size, dtype=np.float32)
        yield Batch(
            obs=torch.from_numpy(both)[:, 0] if number % 2 else torch.from_numpy(both[:, 0].copy()),
            action=torch.from_numpy(rng.integers(0, 3, size)),
            reward=torch.from_numpy(rng.normal(size=size).astype(np.float32)),
            discount=torch.from_numpy(rng.random(size, dtype=np.float32)),
            next_obs=torch.from_numpy(both)[:, 1],
            weight=torch.from_numpy(weight),
            slot=np.arange(size),
            share=ReplayShare(3.0, (0.5 + number / 100,) * len(FRACTIONS)),
        )


@pytest.mark.parametrize(
    ("network", "objective", "space"),
    [
        (
            NetworkConfig(hidden_sizes=(32,), noisy=True),
            ObjectiveConfig(distribution="categorical"),
            IMAGES,
        ),
        (
            NetworkConfig(hidden_sizes=(32, 32), dueling=True),
            ObjectiveConfig(
                distribution="quantile", num_quantiles=20, munchausen=True, double=False
            ),
            VECTORS,
        ),
    ],
    ids=["noisy-categorical", "dueling-munchausen-quantile"],
)
def test_compiled_updates_are_the_eager_ones(network, objective, space):
    eager, compiled = (
        make_learner(network, objective, space, compile=choice) for choice in (False, True)
    )
    before = compiled.online_parameters.values.clone()
    compiled.warm_up(next(batches(space, 1)))
    assert torch.equal(compiled.online_parameters.values, before)
    for batch in batches(space, 20):
        priorities = [learner.start(batch).clone() for learner in (eager, compiled)]
        torch.testing.assert_close(*priorities, rtol=1e-3, atol=1e-4)
        for learner in (eager, compiled):
            learner.finish()
    for name in ("online_parameters", "target_parameters"):
        ours, theirs = (getattr(learner, name).values for learner in (compiled, eager))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert not torch.equal(compiled.online_parameters.values, before)
    assert compiled.statistics.loss == pytest.approx(eager.statistics.loss, rel=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("spoil", [lambda x: x.unsqueeze(1), lambda x: x.mean()])
@pytest.mark.parametrize("name", LossTerms._fields)
def test_terms_that_are_not_per_sample_are_reported(name, spoil, compiled):
    learner = workers.make_learner(LocalCommunicator(), seed=0, optimizer={"compile": compiled})
    right = learner.objective

    def wrong(*arguments):
        terms = right(*arguments)
        return terms._replace(**{name: spoil(getattr(terms, name))})

    for owner in (learner._passes, getattr(learner._passes, "_terms", None)):
        if hasattr(owner, "_objective"):
            owner._objective = wrong
    (batch,) = workers.batches(1, 8)
    with pytest.raises(ValueError, match=rf"objective\.distribution: .* {name} of shape .* \[8\]"):
        learner.warm_up(batch) if compiled else learner.start(batch)


@pytest.mark.parametrize("option", ["compile", "cuda_graph"])
@pytest.mark.parametrize(
    "draws",
    [
        {"objective": ObjectiveConfig(distribution="implicit_quantile")},
        {"network": NetworkConfig(dropout=0.1)},
    ],
)
def test_randomness_inside_the_passes_is_rejected(draws, option):
    with pytest.raises(
        ConfigError, match=rf"optimizer\.{option.replace('_', '-')} = True: .* set it to False"
    ):
        require_method(Config(optimizer=OptimizerConfig(**{option: True}), **draws))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_reported_before_the_run_starts(tmp_path):
    config = small_config().changed({"optimizer.cuda_graph": True})
    with pytest.raises(UserError, match="needs a GPU, and rank 0 has none"):
        train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_missing_compiler_is_reported_before_the_run_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = small_config().changed({"optimizer.compile": True})
    with pytest.raises(UserError, match="no-such-compiler"):
        train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_missing_needs_of_triton_are_reported(monkeypatch):
    there = {"g++": "/usr/bin/g++"}
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(requirements.shutil, "which", there.get)
    require, gpu = requirements.require_compiler, torch.device("cuda")
    require(torch.device("cpu"))
    with pytest.raises(UserError, match="no 'gcc' or 'clang'"):
        require(gpu)
    there["clang"] = "/usr/bin/clang"
    monkeypatch.setattr(requirements.sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(UserError, match=r"no /nowhere/Python\.h"):
        require(gpu)
    monkeypatch.undo()


def test_compiling_uses_this_ranks_share_of_the_cores(monkeypatch):
    from hvd_dqn.learner import compiled

    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    before = compiled.inductor.compile_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: before + 3)
    seen = []

    def compile_nothing(operations, memory):
        seen.append(compiled.inductor.compile_threads)
        return operations

    monkeypatch.setattr(torch._inductor, "compile", compile_nothing)
    learner = workers.make_learner(LocalCommunicator(), seed=0, optimizer={"compile": True})
    (batch,) = workers.batches(1, 8)
    learner.warm_up(batch)
    assert seen == [before + 3]
    assert compiled.inductor.compile_threads == before


def test_a_single_rank_does_not_wait_for_its_passes():
    class Passes:
        def record(self):
            pass

        def synchronize(self):
            raise AssertionError("it has waited")

    learner = workers.make_learner(LocalCommunicator(), seed=0)
    learner._passes_done = Passes()
    (batch,) = workers.batches(1, 8)
    learner.start(batch)
    learner.finish()
    assert learner.updates == 1


def test_only_tests_for_gpus_see_one():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_assembling_may_take_longer_than_a_hang(monkeypatch, tmp_path):
    def slow(*parts):
        time.sleep(2.5)
        return assemble(*parts)

    ended = []
    monkeypatch.setattr(training, "assemble", slow)
    monkeypatch.setattr(Watchdog, "_end", lambda self, message: ended.append(message))
    config = small_config().changed({"distributed.hang_seconds": 1.0})
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert not ended


def test_compiling_may_take_longer_than_a_hang(monkeypatch, tmp_path):
    class Slow(EagerPasses):
        def warm_up(self, batch):
            time.sleep(2.5)

    ended = []
    monkeypatch.setattr(base, "EagerPasses", Slow)
    monkeypatch.setattr(Watchdog, "_end", lambda self, message: ended.append(message))
    config = small_config().changed({"distributed.hang_seconds": 1.0})
    train(config, LocalCommunicator(), RunDirectory(tmp_path / "run"))
    assert not ended
