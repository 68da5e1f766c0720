"""The environment whose steps take time, and the table of ways to train with it."""

import json
import sys

import pytest
import waiting

from hvd_dqn.commands.options import parse_train
from tests.benchmarks import BENCHMARKS


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.setattr(waiting.time, "sleep", seconds.append)
    return seconds


def play(slept, steps=50, **kwargs):
    env = waiting.make_env(**{"rank": 0, "copy": 0, "index": 3, "milliseconds": 2.0} | kwargs)
    env.reset(seed=0)
    for _ in range(steps):
        if any(env.step(0)[2:4]):
            env.reset()
    env.close()
    taken = slept[:]
    slept.clear()
    return taken


def test_steps_take_their_time_and_evaluations_none(slept):
    assert play(slept) == [0.002] * 50
    assert play(slept, rank=1, slow_rank=1) == [0.004] * 50
    assert play(slept, copy=waiting.ENVS) == []


def test_a_heavy_tail(slept):
    seconds = play(slept, steps=5000, tail=1.5)
    assert min(seconds) >= 0.002
    assert max(seconds) == pytest.approx(0.2), "cut"
    # of a Pareto variable with the exponent a, a share of x^−a exceeds x times its least
    for times in (2, 4, 8):
        share = sum(value > times * 0.002 for value in seconds) / len(seconds)
        assert share == pytest.approx(times**-1.5, abs=0.03)


def test_the_table_compares_each_way_with_the_exact_one(monkeypatch, capsys):
    def train(arguments, times, options, seed):
        parse_train(["cartpole", *waiting.COMMON, *options])
        return (100.0 + 50 * ("--distributed.average=server" in options)), 400.0, 10.0

    monkeypatch.setattr(waiting, "train", train)
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "waiting.py"), "--launcher", "true"])
    waiting.main()
    title, *table = capsys.readouterr().out.strip().splitlines()
    assert json.loads(title)["command"]
    rows = [line for line in table if line.startswith("|")][2:]
    ratios = [line.split("|")[4].strip() for line in rows]
    assert ratios == ["1.00", "1.50", "1.00", "1.50", "1.00", "1.50"]
