"""Following a run: what is shown of it, in which order, and what happens where it falls silent."""

import json
import os
import threading

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.tools import watch as watching
from hvd_dqn.tools.watch import Records, watch
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn


class Seen:
    """A display that keeps what it is told."""

    def __init__(self):
        self.title, self.steps, self.said, self.stopped = "", [], [], False

    def start(self, title, env_steps):
        self.title = title

    def update(self, progress, metrics):
        self.steps.append(progress.env_steps)

    def say(self, line):
        self.said.append(line)

    def stop(self):
        self.stopped = True


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = RunDirectory(tmp_path_factory.mktemp("watched") / "run")
    train(small_config(), LocalCommunicator(), run_dir)
    return run_dir


def test_a_run_under_way_is_followed_to_its_end(finished, tmp_path, monkeypatch):
    """What a run writes, in pieces that end within lines."""
    place = RunDirectory(tmp_path)
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_bytes((finished.path / name).read_bytes())
    data = finished.metrics_file.read_bytes()
    pieces = [data[start : start + 700] for start in range(0, len(data), 700)]

    def write_a_piece(_):
        with place.metrics_file.open("ab") as file:
            file.write(pieces.pop(0))

    seen = Seen()
    assert watch(tmp_path, display=seen, sleep=write_a_piece)
    assert seen.steps == [json.loads(line)["env_steps"] for line in data.splitlines()]
    assert [line.partition(" at ")[0] for line in seen.said] == ["evaluation"] * 3 + ["closing"]
    assert seen.title == "CartPole-v1 · test · 1 rank (local) · seed 0"
    assert seen.stopped


def test_once_shows_where_it_is(finished):
    seen = Seen()
    assert watch(finished.path, follow=False, display=seen)
    assert [line.partition(" at ")[0] for line in seen.said] == ["evaluation", "closing"]
    done = hvd_dqn("watch", str(finished.path), "--once", launcher="none")
    assert done.code == 0, done.output
    assert "closing at 2,400 env steps" in done.output


def test_silence_is_told_once_and_a_heartbeat_is_none(finished, tmp_path, monkeypatch):
    place = RunDirectory(tmp_path)
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_bytes((finished.path / name).read_bytes())
    now = [0.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watching.time, "time", lambda: now[0])
    place.heartbeats.mkdir()
    beat = place.heartbeats / "rank-0.json"
    seen = Seen()

    def pass_time(_):
        now[0] += 10.0
        if now[0] <= 100:
            beat.touch()
            os.utime(beat, (now[0], now[0]))
        if now[0] == 500:
            place.metrics_file.write_bytes(finished.metrics_file.read_bytes())

    assert watch(tmp_path, display=seen, sleep=pass_time)
    (line,) = [line for line in seen.said if "nothing has moved for 60 s" in line]
    assert seen.said.index(line) == 0


def test_a_file_that_was_cut_back_is_read_anew(tmp_path):
    file = tmp_path / "metrics.jsonl"
    records = Records(file)
    assert list(records.new()) == []
    file.write_text('{"env_steps": 1}\n{"env_steps": 2, "x": null}\n{"env')
    one, two = records.new()
    assert one == {"env_steps": 1}
    assert two.pop("x") != 0
    assert two == {"env_steps": 2}
    file.write_text('{"env_steps": 1}\n')
    assert list(records.new()) == [{"env_steps": 1}]
    with file.open("a") as more:
        more.write("not JSON\n")
    with pytest.raises(UserError, match="is damaged"):
        list(records.new())


def test_a_run_while_it_trains(tmp_path):
    run_dir, seen = RunDirectory(tmp_path / "run"), Seen()
    training = threading.Thread(target=train, args=(small_config(), LocalCommunicator(), run_dir))
    training.start()
    try:
        while not (run_dir.config_file.exists() and run_dir.facts_file.exists()):
            training.join(0.01)
            assert training.is_alive(), "it broke"
        assert watch(run_dir.path, display=seen)
    finally:
        training.join()
    assert seen.steps[-1] == 2400


def test_what_is_no_run(tmp_path):
    done = hvd_dqn("watch", str(tmp_path), launcher="none")
    assert done.code == 2
    assert "is not a run directory" in done.output
