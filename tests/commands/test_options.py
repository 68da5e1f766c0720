"""Command lines and saved configs are parsed alike; every error is one line with a remedy."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import tyro

import hvd_dqn
from hvd_dqn.commands import cli
from hvd_dqn.commands.arguments import translate
from hvd_dqn.commands.options import parse_train
from hvd_dqn.commands.summary import SummaryOptions
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
        (["cartpole", "--config", "x.yaml"], ["cartpole", "x.yaml", "choose one"]),
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


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--total-env-steps 1e6", "total_env_steps", 1_000_000),
        ("--total_env_steps 2_000", "total_env_steps", 2_000),
        ("--replay.batch-size=64.0", "replay.batch_size", 64),
        ("--time-limit-minutes none", "time_limit_minutes", None),
        ("--optimizer.max-grad-norm NONE", "optimizer.max_grad_norm", None),
        ("--checkpoint.directory null", "checkpoint.directory", None),
        ("--optimizer.world-size-scaling None", "optimizer.world_size_scaling", "none"),
        ("--network.hidden-sizes 32,16", "network.hidden_sizes", (32, 16)),
        ("--network.hidden-sizes [32, 16]", "network.hidden_sizes", (32, 16)),
        ("--network.hidden-sizes=(32,)", "network.hidden_sizes", (32,)),
        ("--logging.loggers wandb,mlflow", "logging.loggers", ("wandb", "mlflow")),
        ("--logging.loggers none --seed 1", "logging.loggers", ()),
        ("--logging.loggers --seed 1", "logging.loggers", ()),
        ("--objective.double true", "objective.double", True),
        ("--objective.double=FALSE", "objective.double", False),
        ("--objective.double off", "objective.double", False),
        ("--network.dueling --seed 1", "network.dueling", True),
        ("--network.dueling", "network.dueling", True),
        ("--no-objective.double", "objective.double", False),
        ("--objective.no-double --seed 1", "objective.double", False),
        ("--objective.v-min -1e2", "objective.v_min", -100.0),
        ("--objective.v-min -20", "objective.v_min", -20.0),
        ('--env.kwargs {"a":"none,1e6"}', "env.kwargs", '{"a":"none,1e6"}'),
    ],
)
def test_values_as_people_type_them(words, field, value):
    assert parse_train(["cartpole", *words.split()]).config.flat()[field] == value


def test_switches_of_commands():
    """A command's switch takes no value, and the word after it may be a run directory."""
    known = {"booleans_take_values": False, "program": "hvd-dqn summary"}
    assert translate(SummaryOptions, ["--json", "runs/a"], **known) == ["--json", "runs/a"]
    assert translate(SummaryOptions, ["--json", "true", "runs/a"], **known) == ["--json", "runs/a"]
    assert translate(SummaryOptions, ["--no-json", "runs/a"], **known) == ["runs/a"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--learning-rate", "--optimizer.learning-rate"),
        ("--lr", "--optimizer.learning-rate"),
        ("--replay.learning_rate", "--optimizer.learning-rate"),
        ("--optimizer.learning_rat", "--optimizer.learning-rate"),
        ("--learningRate", "--optimizer.learning-rate"),
        ("-seed", "--seed"),
        ("--total-timesteps", "--total-env-steps"),
        ("--buffer_size", "--replay.capacity"),
        ("--gamma", "--objective.gamma"),
        ("--tau", "--target-step"),
        ("--env", "--env.id"),
        ("--num-env", "--env.num-envs"),
        ("--log-dir", "--run-dir"),
    ],
)
def test_an_unknown_option_suggests_what_was_meant(typed, meant):
    with pytest.raises(UserError, match=re.escape(f"did you mean {meant}?")):
        parse_train(["cartpole", typed, "1"])


def test_an_option_that_means_nothing_has_no_suggestion():
    with pytest.raises(UserError) as caught:
        parse_train(["cartpole", "--xyzzy", "1"])
    assert "did you mean" not in str(caught.value)
    with pytest.raises(UserError, match="horovodrun -np N"):
        parse_train(["cartpole", "--np", "4"])


def test_a_field_of_several_sections_suggests_them_all():
    with pytest.raises(UserError) as caught:
        parse_train(["cartpole", "--period-env-steps", "1"])
    for section in ("evaluation", "checkpoint", "logging"):
        assert f"--{section}.period-env-steps" in str(caught.value)


def test_text_that_looks_like_markup_is_left_as_it_is():
    name = "[bold]x[/bold]:smile:"
    assert parse_train(["cartpole", "--env.id", name]).config.env.id == name
    with pytest.raises(UserError, match=re.escape("[red]x[/red]")):
        parse_train(["cartpole", "--seed", "[red]x[/red]"])


@pytest.mark.parametrize("words", [["train", "cartpole", "--help"], ["help", "train", "cartpole"]])
def test_the_help_of_a_preset_starts_with_what_people_change(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    with pytest.raises(SystemExit) as exit_request:
        cli.run(words)
    assert exit_request.value.code == 0
    text = capsys.readouterr().out
    top, _, rest = text.partition("all options, by section")
    assert len(re.findall(r"^  --", top, flags=re.M)) == 10
    assert "hvd-dqn train cartpole --optimizer.learning-rate" in top
    assert [name for name in Config().flat() if f"--{name.replace('_', '-')} " not in rest] == []
    commands = [line for line in text.splitlines() if "hvd-dqn train" in line]
    assert [line for line in text.splitlines() if len(line) > 70 and line not in commands] == []
    # A docstring's line breaks are not kept: lines are filled.
    assert "The run directory: a new or empty one, or that of a" in text


def test_the_help_of_one_section(capsys):
    with pytest.raises(SystemExit):
        parse_train(["rainbow", "--help", "optimizer"])
    text = capsys.readouterr().out
    names = set(re.findall(r"^  --(\w+)\.", text, flags=re.M))
    assert names == {"optimizer"}
    assert f"(default: {PRESETS['rainbow']().optimizer.learning_rate})" in text
    with pytest.raises(SystemExit):
        cli.run(["train", "--help", "run"])
    assert "--optimizer." not in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'optimizer'"):
        parse_train(["rainbow", "--help", "optimiser"])


@pytest.mark.parametrize("command", ["summary", "launch", "evaluate", "bench train", "slurm"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_request:
        cli.run([*command.split(), "--help"])
    assert exit_request.value.code == 0
    assert f"usage: hvd-dqn {command}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version(option, capsys):
    assert cli.run([option]) == 0
    assert capsys.readouterr().out == f"hvd-dqn {hvd_dqn.__version__}\n"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("trian", "did you mean 'train'?"),
        ("eval", "did you mean 'evaluate'?"),
        ("cartpole", "did you mean hvd-dqn train cartpole?"),
        ("train CartPole-v1", "did you mean 'cartpole'?"),
        ("train RAINBOW", "did you mean 'rainbow'?"),
        ("train ALE/Pong-v5", "--env.id ALE/Pong-v5"),
        ("presets rainbo", "did you mean 'rainbow'?"),
    ],
)
def test_unknown_commands_and_presets_get_the_nearest_name(words, remedy, capsys):
    assert cli.run(words.split()) == 2
    assert remedy in capsys.readouterr().err


def test_keys_of_objects_have_options_of_their_own():
    words = [
        *("--env.kwargs.is_slippery", "False", "--env.kwargs.map-name=8x8"),
        *("--env.kwargs", '{"is_slippery": true, "config": {"lanes": 2, "cars": 9}}'),
        *("--env.kwargs.config.lanes", "-3", "--env.kwargs.shape", "[4, 4]"),
        *("--env.kwargs.text", '"7"', "--evaluation.env_kwargs.duration", "1e2"),
    ]
    config = parse_train(["cartpole", *words]).config
    assert json.loads(config.env.kwargs) == {
        "is_slippery": False,
        "config": {"lanes": -3, "cars": 9},
        "map_name": "8x8",
        "shape": [4, 4],
        "text": "7",
    }
    assert json.loads(config.evaluation.env_kwargs) == {"duration": 100.0}
    for_evaluations = json.loads(config.evaluation_env.kwargs)
    assert for_evaluations == json.loads(config.env.kwargs) | {"duration": 100.0}


def test_keys_are_set_over_those_of_a_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("env:\n  kwargs: {a: 1, b: {c: 2}}\nevaluation.env-kwargs: {d: x}\n")
    config = parse_train([f"--config={file}", "--env.kwargs.b.c", "none"]).config
    assert json.loads(config.env.kwargs) == {"a": 1, "b": {"c": None}}
    assert json.loads(config.evaluation.env_kwargs) == {"d": "x"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env.kwargs.a"], "--env.kwargs.a: needs a value, JSON or text"),
        (["--env.kwargs.a", "--seed", "1"], "--env.kwargs.a: needs a value, JSON or text"),
        (["--env.kwargs", "{", "--env.kwargs.a", "1"], "is not JSON"),
        (["--env.kwarg.a", "1"], "unknown option --env.kwarg.a"),
        (["--evaluation.env-kwargs", "3"], "evaluation.env-kwargs = '3': must be a JSON object"),
        (
            ["--evaluation.envs", "training", "--evaluation.env-kwargs.a", "1"],
            "needs environments of its own",
        ),
    ],
)
def test_keys_that_cannot_be_set_are_told_in_one_line(words, said):
    with pytest.raises(UserError) as caught:
        parse_train(["cartpole", *words])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrappers_keep_their_arguments_whole():
    words = [
        "--env.wrappers",
        "a:B,c:D",
        'e.f:G={"n": [1, 2], "m": "x y"}',
        "h:I={}",
        "--seed",
        "3",
    ]
    config = parse_train(["cartpole", *words]).config
    assert config.env.wrappers == ("a:B", "c:D", 'e.f:G={"n": [1, 2], "m": "x y"}', "h:I={}")
    assert config.seed == 3


def test_a_syntax_tree_that_fails_once_is_built_again(monkeypatch):
    """As in Python 3.11.2, at times."""
    calls, real = [], tyro.cli

    def cli(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=201, after=23)")
        return real(*arguments, **options)

    monkeypatch.setattr(tyro, "cli", cli)
    assert parse_train(["cartpole", "--seed", "7"]).config.seed == 7
    assert len(calls) >= 2
