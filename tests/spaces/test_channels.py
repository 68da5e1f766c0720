"""Which axis holds the channels: guessed if the shape tells, otherwise asked for."""

import json

import pytest

from hvd_dqn.commands import cli
from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.spaces.channels import guess_channels, is_image
from tests.short_runs import run_of


@pytest.mark.parametrize(
    ("channels", "shapes"),
    [
        ("last", [(84, 84, 4), (210, 160, 3), (10, 10, 4), (8, 8, 111), (5, 5, 17), (6, 7, 2)]),
        ("first", [(4, 84, 84), (3, 210, 160), (12, 8, 8), (111, 8, 8), (7, 11, 11), (1, 30, 20)]),
        (None, [(10, 10, 10), (30, 4, 5), (5, 6, 7), (64, 3, 48), (3, 40, 3), (30, 10, 5)]),
    ],
)
def test_the_guess(channels, shapes):
    for shape in shapes:
        assert is_image(shape)
        assert guess_channels(shape) == channels, shape


def test_what_is_no_image_has_no_channels():
    for shape in [(1, 1, 6), (30, 1, 5), (2, 2, 3), (3, 2, 2), (4,), (84, 84), (2, 3, 4, 5)]:
        assert not is_image(shape)
        assert guess_channels(shape) is None


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [
        ((12, 8, 8), {}, "images of 8 × 8 with 12 channels (the first axis, a guess: see --env.ch"),
        ((8, 9, 1), {}, "images of 8 × 9 with 1 channel (the last axis, a guess"),
        ((10, 10, 10), {"env.channels": "first"}, "images of 10 × 10 with 10 channels (the first"),
        ((30, 1, 5), {}, "observations of shape (30, 1, 5), not images"),
        ((2, 2, 3), {"env.frame_stack": 2}, "observations of shape (2, 2, 3), not images"),
        ((30, 4, 5), {"network.torso": "mlp"}, "observations of shape (30, 4, 5), not images"),
    ],
)
def test_a_run_says_what_it_takes_for_channels(shape, changes, said, tmp_path, capsys):
    place = {"env.id": "tests.envs.toy:ToyPlanes-v0", "env.kwargs": json.dumps({"shape": shape})}
    run = run_of(tmp_path / "run", place | changes)
    assert said in capsys.readouterr().out.splitlines()[0]
    found = json.loads((run / "run.json").read_text())["spaces"]["channels"]
    assert found == ("first" if "first" in said else "last" if "last" in said else None)


def test_an_ambiguous_image_is_refused_with_the_remedies(tmp_path, capsys):
    options = ["--env.id", "tests.envs.toy:ToyPlanes-v0", "--env.kwargs", '{"shape": [10, 10, 10]}']
    code = cli.run(["train", "cartpole", *options, "--run-dir", str(tmp_path / "run")])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert "set --env.channels first or last, or --network.torso mlp" in line
    assert not (tmp_path / "run").exists()


def test_families_know_their_images():
    for env_id, kwargs, channels in [
        ("MinAtar/Seaquest-v0", {}, "last"),
        ("ALE/Pong-v5", {"grayscale": False}, "last"),
        ("highway-fast-v0", {"config": {"observation": {"type": "TimeToCollision"}}}, "first"),
    ]:
        config = EnvConfig(id=env_id, kwargs=json.dumps(kwargs))
        envs = make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: 0)
        assert len(envs.raw_space.shape) == 3
        assert envs.channels == channels
        envs.close()


def test_channels_of_what_has_not_three_axes_are_refused():
    config = EnvConfig(id="CartPole-v1", channels="first")
    with pytest.raises(UserError, match=r"the shape \(4,\), not three axes"):
        make_vector_env(config, num_envs=1, episode_seed=lambda copy, number: 0)
