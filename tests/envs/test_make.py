"""If an environment cannot be made, one line says why and what to do."""

import json

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_env, make_vector_env
from tests.envs import toy


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("NoSuchThing-v0", "{}", ["NoSuchThing"]),
        ("CartPole-v99", "{}", ["CartPole", "v1"]),
        ("not an id", "{}", ["not an id"]),
        ("CartPole-v1", '{"id": "Other-v0"}', ["'id'", "hvd_dqn sets itself", "leave it out"]),
        ("CartPole-v1", '{"disable_env_checker": false}', ["'disable_env_checker'", "leave it"]),
        ("tests.envs.awkward:OldSpaces", "{}", ["a Discrete of the old package gym"]),
        ("tests.envs.awkward:OldEnvironment", "{}", ["an environment of the old package gym"]),
        ("tests.envs.awkward:Texts", "{}", ["'mission'", "Text", "--env.text drop"]),
        ("tests.envs.awkward:Odds", "{}", ["awkward.py", "no 'Odds'", "did you mean 'Odd'?"]),
        ("queue:Thing-v0", "{}", ["'queue'", "Python's own", "queue.py", "rename yours"]),
        ("CartPole-v1", '{"wheels": 3}', ["wheels"]),
        ("tests.envs.awkward:CartPole-v1", "{}", ["Gymnasium's own", "--env.id CartPole-v1"]),
        ("tests.envs.awkward:Empty", "{}", ["which has no values"]),
        (
            "tests.envs.awkward:Asserts",
            "{}",
            ["AssertionError at ", "awkward.py:", "(assert self.sensors)"],
        ),
        ("VizdoomBasic-v0", "{}", ["--env.id vizdoom.gymnasium_wrapper:VizdoomBasic-v0"]),
        ("FooNoFrameskip-v4", "{}", ["old id of Atari", "--env.id ALE/Foo-v5"]),
        (
            "Airstriker-Genesis",
            "{}",
            ["stable-retro", "--env.id retro:make", "--env.vectorization async"],
        ),
        ("vizdoom.gymnasium_wrapper:VizdoomBasic-v0", "{}", ["pip install vizdoom"]),
        ("tests.envs.toy:ToyUnmakeable-v0", "{}", ["OSError", "libGL.so.1"]),
        (
            "ale_py:PongNoFrameskip-v4",
            "{}",
            ["bare Atari game", "(210, 160, 3)", "ALE/Pong-v5", "AtariPreprocessing"],
        ),
    ],
)
def test_bad_ids_are_told_in_one_line(env_id, kwargs, words):
    with pytest.raises(UserError) as caught:
        make_vector_env(
            EnvConfig(id=env_id, kwargs=kwargs), num_envs=1, episode_seed=lambda copy, number: 0
        )
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("env_id", "kwargs", "said"),
    [
        (
            "no_such_module:Thing-v0",
            "{}",
            ": there is no module 'no_such_module'; install the package that contains "
            "'no_such_module'",
        ),
        (
            "tests.envs.nowhere:Thing-v0",
            "{}",
            ": there is no module 'tests.envs.nowhere'; install the package that contains "
            "'tests.envs.nowhere'",
        ),
        (
            "imports_in_vain:Thing-v0",
            "{}",
            " needs the module 'no_such_package': install the package that contains "
            "'no_such_package'",
        ),
        (
            "RegisteredInVain-v0",
            "{}",
            " needs the module 'no_such_package': install the package that contains "
            "'no_such_package'",
        ),
        (
            "tests.envs.awkward:Lazy",
            "{}",
            " needs the module 'no_such_package': install the package that contains "
            "'no_such_package'",
        ),
        (
            "tests.envs.awkward:Lazy",
            '{"named": false}',
            " needs a module that is not installed: please install the simulator",
        ),
        (
            "reads_arguments:Thing-v0",
            "{}",
            ": the module 'reads_arguments' calls sys.exit when it is imported (argparse: the "
            "following arguments are required: --needed); move what parses arguments or runs "
            'below if __name__ == "__main__":',
        ),
        (
            "leaves:Thing-v0",
            "{}",
            ": the module 'leaves' calls sys.exit when it is imported (4); move what parses "
            'arguments or runs below if __name__ == "__main__":',
        ),
    ],
)
def test_modules_that_cannot_be_imported_are_named(
    monkeypatch, tmp_path, capsys, env_id, kwargs, said
):
    import gymnasium as gym

    (tmp_path / "imports_in_vain.py").write_text("import no_such_package\n")
    (tmp_path / "reads_arguments.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--needed', required=True)\nparser.parse_args([])\n"
    )
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    if "RegisteredInVain-v0" not in gym.registry:
        gym.register("RegisteredInVain-v0", entry_point="imports_in_vain:Thing")
    with pytest.raises(UserError) as caught:
        make_env(EnvConfig(id=env_id, kwargs=kwargs))
    assert str(caught.value) == f"env.id {env_id!r}{said}"
    assert capsys.readouterr().err == ""


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    for module in [m for m in sys.modules if m.startswith(("Box2D", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(UserError, match=r"pip install 'hvd_dqn\[box2d\]'"):
        make_env(EnvConfig(id="LunarLander-v3"))


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("ale_py:ALE/Pong-v5", "ale_py", "atari"),
        ("MinAtar/Breakout-v1", "minatar", "minatar"),
        ("highway-fast-v0", "highway_env", "driving"),
        ("highway_env:lane-keeping-v0", "highway_env", "driving"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, env_id, module, extra):
    import sys

    import gymnasium as gym

    for name in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(gym.registry, env_id.rpartition(":")[2], raising=False)
    with pytest.raises(UserError, match=rf"pip install 'hvd_dqn\[{extra}\]'") as caught:
        make_vector_env(EnvConfig(id=env_id), num_envs=1, episode_seed=lambda copy, number: 0)
    assert "\n" not in str(caught.value)


def test_an_id_that_only_looks_like_a_packages_own_is_not_found():
    with pytest.raises(UserError, match="highway-slow"):
        make_env(EnvConfig(id="highway-slow-v0"))
    with pytest.raises(UserError, match="NoSuchGame"):
        make_env(EnvConfig(id="MinAtar/NoSuchGame-v1"))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("shape", r"space is Box\(-1.0, 1.0, \(4,\).* first copy is Box\(-1.0, 1.0, \(3,\)"),
        ("bounds", r"observation space is Box\(-100.0, 100.0.* first copy is Box\(-10.0, 10.0"),
        ("count", r"copy 1 of rank 0: its action space is Discrete\(4\).* is Discrete\(3\)"),
        ("start", r"its action space is Discrete\(2, start=2\).* Discrete\(2, start=1\)"),
    ],
)
def test_copies_that_differ_are_refused(what, said, monkeypatch):
    monkeypatch.setattr(toy.Growing, "made", 0)
    config = EnvConfig(id="tests.envs.toy:ToyGrowing-v0", kwargs=json.dumps({"what": what}))
    with pytest.raises(UserError, match=said):
        make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: 0)


@pytest.mark.parametrize(
    "env_id",
    [
        "CartPole-v1",
        "LunarLander-v3",
        "MinAtar/Breakout-v1",
        "highway-fast-v0",
        "tests.envs.toy:ToyIdentity-v0",
    ],
)
def test_good_ids_are_made(env_id):
    env = make_env(EnvConfig(id=env_id))
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape
    env.close()
