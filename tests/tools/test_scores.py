"""Scores, compared with SciPy's trimmed mean and bootstrap, and the command that prints them."""

import json

import numpy as np
import pytest
from scipy import stats

from hvd_dqn.tools.scores import interquartile_mean, score
from tests.distributed.test_command import SMALL
from tests.launching import hvd_dqn


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_the_interquartile_mean_is_a_trimmed_one(count):
    values = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_the_interval_is_that_of_a_percentile_bootstrap():
    values = np.random.default_rng(0).gamma(2.0, size=60)
    ours = score(values.tolist())
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        n_resamples=5_000,
        random_state=1,
    ).confidence_interval
    assert ours.iqm_low == pytest.approx(theirs.low, abs=0.03)
    assert ours.iqm_high == pytest.approx(theirs.high, abs=0.03)
    assert ours == score(values.tolist())
    assert ours.mean == pytest.approx(values.mean())
    assert ours.std == pytest.approx(values.std())
    assert ours.median == pytest.approx(np.median(values))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluated") / "run"
    done = hvd_dqn("train", "cartpole", *SMALL, "--run-dir", str(path), launcher="none")
    assert done.code == 0, done.output
    return path


def test_several_seeds_and_random_actions(run_dir, tmp_path):
    file = tmp_path / "new" / "scores.json"
    done = hvd_dqn(
        *("evaluate", str(run_dir), "--episodes", "6", "--seeds", "3", "4", "--epsilon", "0.5"),
        *("--network", "newest", "--output", str(file)),
        launcher="none",
    )
    assert done.code == 0, done.output
    report = json.loads(file.read_text())
    assert len(report["returns"]) == len(report["lengths"]) == 12
    assert report["seeds"] == [3, 4]
    assert report["mean"] == pytest.approx(np.mean(report["returns"]))
    (line,) = done.lines("interquartile mean")
    assert "12 0.5-greedy episodes" in line
    assert "means by seed · 3: " in done.output
    alone = hvd_dqn(
        *("evaluate", str(run_dir), "--episodes", "6", "--seeds", "4", "--epsilon", "0.5"),
        *("--network", "newest", "--json"),
        launcher="none",
    )
    assert json.loads(alone.output)["returns"] == report["returns"][6:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epsilon", "2"], "--epsilon = 2.0: must be between 0 and 1"),
        (["--episodes", "0"], "--episodes = 0: must be greater than 0"),
        (["--network", "12"], "has no network 12"),
        (["--network", "worst"], "has no network worst"),
        (["--output", "/proc/x/y.json"], "/proc/x/y.json"),
        (["--atari-protocol", "mnih2015"], "is not an Atari game"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run_dir, options, said):
    done = hvd_dqn("evaluate", str(run_dir), *options, launcher="none")
    assert done.code == 2, done.output
    assert said in done.output.splitlines()[-1]
