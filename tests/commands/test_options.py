"""Command lines and saved configs are parsed alike; every error is one line with a remedy."""

import dataclasses
import json
from pathlib import Path

import pytest

from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config, EnvConfig, OptimizerConfig
from hvd_dqn.config.loading import load_config
from hvd_dqn.presets import PRESETS
from hvd_dqn.presets.classic import cartpole


def test_options_replace_the_presets_values():
    arguments = (
        "cartpole --optimizer.learning_rate 0.5 --env.id Acrobot-v1 --seed 7 "
        "--network.hidden-sizes 32 16 --optimizer.max_grad_norm None "
        "--objective.double False --run-dir /tmp/x"
    )
    options = parse_train(arguments.split())
    expected = dataclasses.replace(
        cartpole(),
        seed=7,
        env=dataclasses.replace(cartpole().env, id="Acrobot-v1"),
        network=dataclasses.replace(cartpole().network, hidden_sizes=(32, 16)),
        objective=dataclasses.replace(cartpole().objective, double=False),
        optimizer=dataclasses.replace(cartpole().optimizer, learning_rate=0.5, max_grad_norm=None),
    )
    assert options.config == expected
    assert options.run_dir == Path("/tmp/x")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_its_file(name, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(PRESETS[name]().to_json())
    assert load_config(file) == PRESETS[name]()


def test_unusual_values_survive_their_file(tmp_path):
    config = Config(
        env=EnvConfig(id="mod:Thing-v3", kwargs='{"a": -1, "b": "x y"}'),
        optimizer=OptimizerConfig(learning_rate=1e-7, max_grad_norm=None),
    )
    file = tmp_path / "config.json"
    file.write_text(config.to_json())
    assert load_config(file) == config
    assert parse_train(["--config", str(file), "--seed", "3"]).config.seed == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name a preset"]),
        (["--seed", "1"], ["name a preset"]),
        (["cartpol"], ["unknown preset 'cartpol'", "cartpole"]),
        (["cartpole", "extra"], ["extra"]),
        (
            ["cartpole", "--optimizer.learning_rat", "1"],
            ["learning_rat", "did you mean --optimizer.learning-rate?"],
        ),
        (["cartpole", "--optimizer.learning_rate", "fast"], ["learning-rate", "'fast'"]),
        (["cartpole", "--optimizer.learning_rate"], ["learning-rate"]),
        (
            ["cartpole", "--optimizer.learning_rate", "-1"],
            ["optimizer.learning-rate = -1.0", "greater than 0"],
        ),
        (["cartpole", "--device", "tpu"], ["'tpu'", "cuda"]),
        (["cartpole", "--objective.double", "perhaps"], ["perhaps", "True"]),
        (["--config", "/nowhere/config.json"], ["/nowhere/config.json", "No such file"]),
    ],
)
def test_bad_arguments_are_reported_on_one_line(arguments, words):
    with pytest.raises(UserError) as caught:
        parse_train(arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["is not JSON"]),
        ("[]", ["JSON object"]),
        (json.dumps({"optimizer": {"speed": 3}}), ["optimizer.speed"]),
        (json.dumps({"seed": "x"}), ["seed", "'x'"]),
        (json.dumps({"objective": {"gamma": 2}}), ["objective.gamma", "between 0 and 1"]),
    ],
)
def test_bad_files_are_reported_on_one_line(text, words, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)
