"""One extension of each kind, from outside the package, in a run that really uses it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hvd_dqn
from hvd_dqn.common.errors import ConfigError, UserError
from hvd_dqn.config import Config
from hvd_dqn.distributed.connect import connect
from hvd_dqn.envs import make_env
from tests import extensions
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn as command

ROOT = str(Path(__file__).parents[1])
SHORT = {
    "total_env_steps": 400,
    "learning_starts_env_steps": 100,
    "evaluation.episodes": 2,
    "evaluation.final_episodes": 2,
    "evaluation.max_episode_steps": 20,
    "logging.period_env_steps": 100,
}
EVERYTHING = {
    "objective.distribution": "tests.extensions:gaussian",
    "network.torso": "tests.extensions:cosines",
    "exploration.kind": "tests.extensions:boltzmann",
    "env.id": "tests.extensions:corridor",
    "env.kwargs": '{"length": 4}',
    "distributed.backend": "tests.extensions:counting",
}


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(extensions, "calls", {})
    return lambda name: extensions.calls.get(name, 0)


def trained(place, changes):
    """The summary and the records of a short run."""
    run = hvd_dqn.train(small_config(), SHORT | changes, run_dir=place)
    assert run.summary.progress.updates > 0
    return run, [json.loads(line) for line in (place / "metrics.jsonl").open()]


def test_a_method(tmp_path, calls):
    name = "objective.distribution"
    run, records = trained(tmp_path / "run", {name: EVERYTHING[name]})
    assert calls("objective") == run.summary.progress.updates
    losses = [record["loss/gaussian"] for record in records if "loss/gaussian" in record]
    assert losses
    assert np.isfinite(losses).all()
    network = run.policy().network
    assert isinstance(network, extensions.GaussianQNetwork)
    assert network.outputs(torch.zeros(1, 4)).shape == (1, 2, 2)


def test_a_torso(tmp_path, calls):
    run, _ = trained(tmp_path / "run", {"network.torso": EVERYTHING["network.torso"]})
    assert calls("torso") > 2 * run.summary.progress.updates
    assert isinstance(run.policy().network.torso, extensions.Cosines)


def test_an_exploration(tmp_path, calls):
    run, records = trained(tmp_path / "run", {"exploration.kind": EVERYTHING["exploration.kind"]})
    steps = run.summary.progress.env_steps // small_config().env.num_envs
    assert calls("exploration") == steps
    epsilons = [r["exploration/epsilon"] for r in records if "exploration/epsilon" in r]
    assert epsilons
    assert set(epsilons) == {None}, "it has no ε"


def test_an_environment(tmp_path, calls):
    run, _ = trained(
        tmp_path / "run", {name: EVERYTHING[name] for name in ("env.id", "env.kwargs")}
    )
    assert calls("episodes") > 10
    assert run.policy().raw_shape == (2,)


def test_a_backend(tmp_path, calls):
    name = "distributed.backend"
    run, _ = trained(tmp_path / "run", {name: EVERYTHING[name]})
    assert calls("sums") == run.summary.progress.updates
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["backend"] == "counting"


def test_all_of_them_by_the_command_line_and_resumed(tmp_path):
    options = [
        word
        for name, value in (SHORT | EVERYTHING).items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    for total in ("200", "400"):
        done = command(
            *("train", "cartpole", *options, "--total-env-steps", total),
            *("--resume-changes", "total_env_steps", "--run-dir", "run"),
            launcher="none",
            cwd=tmp_path,
            PYTHONPATH=ROOT,
        )
        assert done.code == 0, done.output
        assert "updates" in done.lines("cartpole: return")[0]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert records[-1]["env_steps"] == 400
    assert any("loss/gaussian" in record for record in records)


@pytest.mark.multirank
def test_a_backend_over_ranks(tmp_path):
    options = [word for name, value in SHORT.items() for word in (f"--{name}", str(value))]
    backend = EVERYTHING["distributed.backend"]
    done = command(
        *("train", "cartpole", *options, "--distributed.backend", backend, "--run-dir", "run"),
        launcher="mpirun",
        ranks=2,
        cwd=tmp_path,
        PYTHONPATH=ROOT,
    )
    assert done.code == 0, done.output
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["backend"], facts["world_size"]) == ("counting", 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective.distribution": "gaussian"}, "must be one of expected, categorical"),
        ({"network.torso": "resnet"}, "must be one of auto, mlp"),
        ({"exploration.kind": "softmax"}, "must be one of annealed, ladder, or module:function"),
        ({"exploration.kind": "tests.extensions:aimless"}, "abstract class Aimless .*choose"),
        (
            {"distributed.backend": "gloo"},
            "must be one of auto, local, horovod, mpi, or module:function",
        ),
        ({"env.id": "tests.extensions:nobody"}, "nobody"),
        ({"env.id": "tests.extensions:count"}, "TypeError"),
        ({"env.id": "tests.extensions:calls"}, "calls"),
        (
            {"env.id": "tests.extensions:count", "env.kwargs": '{"name": "x"}'},
            "must return a gymnasium.Env, and returns NoneType",
        ),
        ({"distributed.backend": "tests.extensions:nobody"}, "has no attribute 'nobody'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_made(tmp_path, changes, said):
    with pytest.raises(UserError, match=said) as caught:
        hvd_dqn.train(small_config(), SHORT | changes, run_dir=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_config_needs_no_import():
    """It may come from another machine."""
    config = Config().changed({"objective.distribution": "nowhere:method"})
    assert config.objective.distribution == "nowhere:method"
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        connect("nowhere:backend")


def test_a_registered_id_comes_before_a_function_of_its_name():
    """`RegisteredCorridor` is a class of the module, and `RegisteredCorridor-v0` an id."""
    env = make_env(Config().changed({"env.id": "tests.extensions:RegisteredCorridor"}).env)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7
    env.close()
