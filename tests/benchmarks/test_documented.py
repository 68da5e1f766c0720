import json

import documented
import pytest
import torch

from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.networks import numpy_network
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.resources import acquire
from hvd_dqn.run.start import plan
from hvd_dqn.run.watchdog import Watchdog
from hvd_dqn.training import iterate
from tests.benchmarks import BENCHMARKS, TINY
from tests.launching import launch


def test_the_actor_follows_the_trained_parameters(tmp_path, monkeypatch):
    config = parse_train(
        [*TINY, "--device=cpu", "--objective.double=False", "--exploration.epsilon-final=0"]
    ).config
    comm, progress, run_dir = LocalCommunicator(), Progress(), RunDirectory(tmp_path / "run")
    start = plan(config, comm, run_dir, resume="never", changes=frozenset())
    watchdog = Watchdog(comm, progress, run_dir, limit=60.0)
    resources = acquire(config, comm, run_dir, start, StopRequest(), watchdog)
    chosen, step = [], resources.envs.step

    def noting(actions):
        chosen.append(actions.copy())
        return step(actions)

    monkeypatch.setattr(resources.envs, "step", noting)
    try:
        components = documented.assemble(config, comm, resources, progress, "ddp")
        online = components.learner.online
        assert numpy_network(online) is not None, "it acts without torch"
        before = [parameter.detach().clone() for parameter in online.parameters()]
        while components.learner.updates < 8:
            iterate(components)
        after = list(online.parameters())
        assert not any(map(torch.equal, before, after)), "it learns"
        bias = after[-1]
        assert bias.shape == (2,)
        for action in (0, 1):
            with torch.no_grad():  # in place, as the optimizer changes them
                bias.zero_()
                bias[action] = 1e6
            components.actor.step(env_steps=10**9)  # past the decay of ε
            assert (chosen[-1] == action).all()
    finally:
        resources.close()


@pytest.mark.multirank
def test_ddp_is_measured_without_horovod(tmp_path):
    poison = tmp_path / "poison/horovod"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise SystemExit('Horovod is here')")
    file = tmp_path / "ddp.json"
    words = [str(BENCHMARKS / "documented.py"), "ddp", "3", str(file), *TINY]
    path = f"{tmp_path}/poison:{BENCHMARKS.parent}"
    done = launch(words, ranks=2, cwd=tmp_path, PYTHONPATH=path)
    assert done.code == 0, done.output
    assert min(json.loads(file.read_text())["env_steps_per_second"]) > 0
