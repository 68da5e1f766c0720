"""Settings in YAML, TOML and JSON, as people write them."""

import json
from pathlib import Path

import pytest

from hvd_dqn.commands import cli
from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import Config
from hvd_dqn.config.files import read_settings
from hvd_dqn.config.loading import load_config
from hvd_dqn.presets import PRESETS

YAML = """\
# settings of a sweep
total-env-steps: 1e5
optimizer:
  learning-rate: 1e-3
  max_grad_norm: none
network.hidden-sizes: [64, 32]
env:
  kwargs: {some-name: 1.5, other.name: none}
"""
TOML = """\
total_env_steps = 100_000
network.hidden-sizes = [64, 32]
[optimizer]
learning-rate = 1e-3
max_grad_norm = "none"
[env.kwargs]
some-name = 1.5
"other.name" = "none"
"""
JSON = {
    "total_env_steps": 1e5,
    "optimizer": {"learning_rate": 1e-3, "max_grad_norm": None},
    "network": {"hidden_sizes": [64, 32]},
    "env.kwargs": {"some-name": 1.5, "other.name": "none"},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", YAML), ("a.YML", YAML), ("a.toml", TOML), ("a.json", json.dumps(JSON))],
)
def test_the_same_settings_in_every_format(name, text, tmp_path):
    file = tmp_path / name
    file.write_text("\ufeff" + text, encoding="utf-8")  # as editors on Windows write it
    config = load_config(file)
    expected = Config().changed(
        {
            "total_env_steps": 100_000,
            "optimizer.learning_rate": 0.001,
            "optimizer.max_grad_norm": None,
            "network.hidden_sizes": (64, 32),
            "env.kwargs": '{"some-name": 1.5, "other.name": "none"}',
        }
    )
    assert config == expected
    assert type(config.total_env_steps) is int
    assert parse_train(["--seed", "3", f"--config={file}"]).config == expected.changed({"seed": 3})


@pytest.mark.parametrize("name", PRESETS)
def test_the_yaml_of_a_preset_is_that_preset(name, tmp_path, capsys):
    assert cli.run(["presets", name, "--yaml"]) == 0
    file = tmp_path / "run.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_config(file) == PRESETS[name]()


def test_an_empty_yaml_file_has_no_settings(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    assert read_settings(file) == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "env: [", "is not YAML: "),
        ("a.yaml", "a: !!python/object:os.system {}", "is not YAML: "),
        ("a.yaml", "- 1", "does not contain a YAML object"),
        ("a.yaml", "env: CartPole-v1\nenv.num-envs: 3", "env is both a setting and a section"),
        ("a.yaml", "optimizer: {learning-rat: 1}", "unknown setting 'optimizer.learning_rat'"),
        ("a.yaml", "learning-rate: 1", "did you mean 'optimizer.learning_rate'?"),
        ("a.yaml", "seed: 1.5", "seed = 1.5: must be of type int"),
        ("a.toml", "seed = ", "is not TOML: "),
        ("a.toml", "[env", "is not TOML: "),
        ("a.json", "{", "is not JSON: "),
        ("a", "\udcff", "is not JSON: "),
    ],
)
def test_a_bad_file_is_reported_on_one_line(name, text, words, tmp_path):
    file = tmp_path / name
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        load_config(file)
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(file))
    assert "\n" not in message


def test_a_missing_file_is_reported():
    with pytest.raises(UserError, match="No such file"):
        load_config(Path("/nowhere/run.yaml"))


def test_keyword_arguments_are_objects_in_files_and_in_python(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[env.kwargs]\nsize = [4, 4]\n[evaluation.env-kwargs]\nlevel = "hard"\n')
    config = load_config(file)
    assert config.env.kwargs == '{"size": [4, 4]}'
    assert config.evaluation.env_kwargs == '{"level": "hard"}'
    same = {"env.kwargs": {"size": [4, 4]}, "evaluation.env_kwargs": {"level": "hard"}}
    assert Config().changed(same) == config
    assert load_config_again(config, tmp_path) == config


def load_config_again(config, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(config.to_json())
    return load_config(file)
