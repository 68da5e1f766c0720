"""Numbers in infos, which become metrics."""

import json

import numpy as np
import pytest

from hvd_dqn.commands import cli
from hvd_dqn.common.structs import Episode, mean_infos
from hvd_dqn.config import EnvConfig
from hvd_dqn.envs import make_vector_env
from hvd_dqn.envs.infos import array_of
from hvd_dqn.envs.interface import EnvironmentFailedError, InterfaceError
from hvd_dqn.tools.report.curves import group_runs
from hvd_dqn.tools.report.figures import make_figures
from hvd_dqn.tools.runs import find_runs
from tests.short_runs import run_of

INFORMATIVE = "tests.envs.wrapped:make"
KEYS = ("distance", "success", "inner.twice", "missing")


def make(keys, vectorization="sync", length=3):
    config = EnvConfig(
        id=INFORMATIVE, vectorization=vectorization, kwargs=json.dumps({"length": length})
    )
    return make_vector_env(config, num_envs=2, episode_seed=lambda copy, number: 0, info_keys=keys)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_episode_keeps_the_last_value_of_each_number(vectorization):
    envs = make(KEYS, vectorization)
    try:
        envs.reset()
        episodes = [e for _ in range(6) for e in envs.step(np.zeros(2, np.int64)).episodes]
    finally:
        envs.close()
    assert len(episodes) == 4
    for episode in episodes:  # success was last given one step before the end
        np.testing.assert_array_equal(episode.infos, [3, 1, 6, np.nan])


def test_an_episode_that_is_replayed_has_the_same_numbers():
    first, second = make(KEYS), make(KEYS)
    for envs in (first, second):
        envs.reset()
    for _ in range(2):
        first.step(np.zeros(2, np.int64))
    assert not second.load_state_dict(first.state_dict()).any()
    ends = [envs.step(np.zeros(2, np.int64)).episodes for envs in (first, second)]
    np.testing.assert_array_equal([e.infos for e in ends[0]], [e.infos for e in ends[1]])
    assert ends[1][0].infos[1] == 1, "given before the replay"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_is_no_number_is_named(vectorization):
    envs = make(("text",), vectorization)
    try:
        envs.reset()
        with pytest.raises(EnvironmentFailedError, match=r"info\['text'\] is 'x'.*info-keys"):
            envs.step(np.zeros(2, np.int64))
    finally:
        envs.close()


def test_means_are_over_the_episodes_that_have_the_number():
    nan = float("nan")
    episodes = [Episode(0.0, 1, (1.0, nan, nan)), Episode(0.0, 1, (3.0, 5.0, nan))]
    assert mean_infos(episodes, ("a", "b", "c")) == {"a": 2.0, "b": 5.0}
    assert mean_infos([*episodes, Episode(0.0, 1)], ("a", "b", "c"))["a"] == 2.0
    assert mean_infos([], ("a",)) == {}


def test_infos_of_vector_environments_have_masks():
    infos = {"a": np.array([1, 2]), "_a": np.array([True, False]), "n": {"b": np.array([3.0, 4])}}
    numbers = array_of(infos, ("a", "n.b", "c"), 2)
    np.testing.assert_array_equal(numbers, [[1, 3, np.nan], [np.nan, 4, np.nan]])
    assert array_of(infos, (), 2) is None
    with pytest.raises(InterfaceError, match="one for each copy"):
        array_of({"a": np.zeros((2, 3))}, ("a",), 2)


def test_records_and_evaluations_have_the_means(tmp_path, capsys):
    changes = {"env.id": INFORMATIVE, "logging.info_keys": KEYS, "logging.period_env_steps": 24}
    run = run_of(tmp_path / "run", changes)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in records if "episode/count" in r]
    assert trained
    assert all(r["info/distance"] == 3 and r["info/inner.twice"] == 6 for r in trained)
    closing = next(r for r in records if "closing/episodes" in r)
    assert closing["closing/info/success"] == 1
    assert not [name for r in records for name in r if "missing" in name]
    assert cli.run(["evaluate", str(run), "--episodes", "2"]) == 0
    assert "distance 3.00, success 1.00, inner.twice 6.00" in capsys.readouterr().out
    runs = find_runs([run])
    figures = {figure.name: figure for figure in make_figures(runs, group_runs(runs))}
    assert {name for name in figures if name.startswith("info-")} == {
        "info-distance",
        "info-success",
        "info-inner.twice",
    }
    trained_line, evaluated_line = figures["info-distance"].lines
    assert set(trained_line.curve.values) == set(evaluated_line.curve.values) == {3.0}
