import json

import pytest
import torch

from hvd_dqn.common.errors import UserError
from hvd_dqn.networks.saved import EvaluatedNetwork, NetworkDirectory, load_network


def network(value=0.0):
    module = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(module.weight, value)
    return module


def save(directory, module, env_steps, mean):
    mean = float("nan") if mean is None else mean
    return directory.save(EvaluatedNetwork(env_steps, env_steps, mean, module.state_dict()))


def test_the_newest_and_the_best_are_kept(tmp_path):
    directory = NetworkDirectory(tmp_path / "checkpoints", keep=2)
    for step, score in enumerate([1.0, 9.0, 3.0, 2.0, 4.0]):
        save(directory, network(step), step, score)
    assert [saved.env_steps for saved in directory.list()] == [1, 3, 4]
    assert directory.best().env_steps == 1
    loaded = network(-1.0)
    load_network(loaded, directory.best())
    assert torch.equal(loaded.weight, network(1.0).weight)


def test_among_equals_the_newest_is_best_and_an_unjudged_one_never(tmp_path):
    directory = NetworkDirectory(tmp_path, keep=5)
    for step, score in enumerate([5.0, 5.0, None]):
        save(directory, network(), step, score)
    assert directory.best().env_steps == 1


def test_saving_the_same_step_again_replaces_it(tmp_path):
    directory = NetworkDirectory(tmp_path)
    for value in (1.0, 2.0):
        save(directory, network(value), 7, value)
    (saved,) = directory.list()
    assert saved.evaluation_mean == 2.0


def test_what_was_cut_short_does_not_exist(tmp_path):
    directory = NetworkDirectory(tmp_path)
    save(directory, network(), 1, 1.0)
    partial = tmp_path / "step-000000000002.partial"
    partial.mkdir()
    (partial / "manifest.json").write_text(
        json.dumps({"env_steps": 2, "updates": 2, "evaluation_mean": 99})
    )
    (tmp_path / "step-000000000003").mkdir()
    assert [saved.env_steps for saved in directory.list()] == [1]


def test_damage_and_strangers_are_told(tmp_path):
    directory = NetworkDirectory(tmp_path)
    with pytest.raises(UserError, match="contains no network"):
        directory.best()
    save(directory, network(), 1, 1.0)
    saved = directory.best()
    with pytest.raises(UserError, match="does not fit the network"):
        load_network(torch.nn.Linear(4, 2), saved)
    file = saved.path / "network.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        load_network(network(), saved)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"env_steps": 1}'])
def test_a_damaged_manifest_is_told(tmp_path, text):
    directory = NetworkDirectory(tmp_path)
    path = save(directory, network(), 1, 1.0)
    (path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        directory.best()
