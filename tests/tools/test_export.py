"""Exported files give the policy's Q-values."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from hvd_dqn.common.errors import RunError
from hvd_dqn.policy import load_policy
from hvd_dqn.tools import export as exporting
from hvd_dqn.tools.export import export, recorded_observations
from tests.launching import hvd_dqn
from tests.short_runs import run_of

CASES = {
    "scaled vectors": {"network.scale_observations": True, "network.layer_norm": True},
    "noisy, dueling, categorical images": {
        "env.id": "MinAtar/Breakout-v1",
        "env.frame_stack": 2,
        "network.noisy": True,
        "network.dueling": True,
        "objective.distribution": "categorical",
    },
    "bfloat16": {"network.precision": "bfloat16"},
    "implicit quantiles": {"objective.distribution": "implicit_quantile"},
    "masked records, stacked": {"env.id": "tests.envs.toy:ToyMaskedRing-v0", "env.frame_stack": 2},
    "several dimensions of actions": {
        "env.id": "Pendulum-v1",
        "env.joint_actions": 2,
        "network.normalize_observations": True,
    },
    "stacked frames, a spectral Impala": {
        "env.id": "ALE/Pong-v5",
        "env.num_envs": 2,
        "env.frame_stack": 4,
        "network.torso": "impala",
        "network.spectral_norm": True,
        "network.pool_size": 6,
    },
}
SLOW = "stacked frames, a spectral Impala", "torch"


@pytest.mark.parametrize(
    ("name", "kind"),
    # ONNX alone replaces the adaptive pooling
    [(name, kind) for name in CASES for kind in ("onnx", "torch") if (name, kind) != SLOW],
)
def test_an_exported_file_gives_the_policys_q_values(name, kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    policy = load_policy(run_of(tmp_path / "run", CASES[name]))
    observations = recorded_observations(policy, 60)
    assert len(np.unique(observations, axis=0)) > 5, "the environment must have been stepped"
    assert export(policy, tmp_path / "out/file", kind, observations) < 1e-4


def test_an_onnx_file_says_which_actions_its_values_are_of(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    kwargs = json.dumps({"first_action": 5})
    place = {"env.id": "tests.envs.toy:ToyCounting-v0", "env.kwargs": kwargs}
    policy = load_policy(run_of(tmp_path / "run", place))
    export(policy, tmp_path / "policy.onnx", "onnx", recorded_observations(policy, 10))
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    spaces = json.loads(session.get_modelmeta().custom_metadata_map["spaces"])
    assert spaces["action"] == {"n": 3, "start": 5}
    assert spaces["observation"]["shape"] == [2]


def test_the_parts_of_an_observation_are_inputs_by_name(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    place = {"env.id": "tests.envs.toy:ToyComposite-v0", "env.text": "drop"}
    policy = load_policy(run_of(tmp_path / "run", place | {"network.normalize_observations": True}))
    export(policy, tmp_path / "policy.onnx", "onnx", recorded_observations(policy, 10))
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    env = gym.make("tests.envs.toy:ToyComposite-v0").unwrapped
    obs, _ = env.reset(seed=1)
    parts = parts_of(obs)
    inputs = {}
    for told in session.get_inputs():
        kind = {"tensor(int64)": np.int64, "tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        shape = [1, *(size for size in told.shape[1:])]
        inputs[told.name] = np.asarray(parts.pop(told.name), kind[told.type]).reshape(shape)
    assert all(isinstance(left, str) for left in parts.values()), "words alone are left out"
    (values,) = session.run(["q_values"], inputs)
    np.testing.assert_allclose(values[0], policy.q_values(obs), rtol=1e-4, atol=1e-5)


def parts_of(obs, name=""):
    """Return the parts of a nested observation by their names, joined by dots."""
    if not isinstance(obs, dict | tuple):
        return {name: obs}
    keyed = obs.items() if isinstance(obs, dict) else enumerate(obs)
    parts = {}
    for key, value in keyed:
        parts |= parts_of(value, f"{name}.{key}" if name else str(key))
    return parts


def test_a_file_with_other_q_values_is_refused(tmp_path, monkeypatch):
    policy = load_policy(run_of(tmp_path / "run", {}))
    load = exporting._load_torch

    def loaded_wrongly(path):
        run = load(path)
        return lambda obs: run(obs) + 0.01

    monkeypatch.setattr(exporting, "_load_torch", loaded_wrongly)
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match=r"differ from the policy's by up to 0\.01"):
        export(policy, tmp_path / "out/file.pt2", "torch", recorded_observations(policy, 10))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command(tmp_path):
    run_dir = run_of(tmp_path / "run", {})
    done = hvd_dqn("export", str(run_dir), "--format", "torch", launcher="none")
    assert done.code == 0, done.output
    assert "Q-values match the policy's on 500 observations" in done.output
    program = torch.export.load(run_dir / "policy.pt2").module()
    assert program(torch.zeros(3, 4)).shape == (3, 2)
    extra = {"spaces.json": ""}
    torch.export.load(run_dir / "policy.pt2", extra_files=extra)
    assert json.loads(extra["spaces.json"])["action"] == {"n": 2, "start": 0}
    done = hvd_dqn("export", str(run_dir), "--output", "/proc/x/y", launcher="none")
    assert done.code == 2
    assert "/proc/x/y cannot be written" in done.output
