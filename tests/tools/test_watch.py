"""Following a run: what is shown, in which order, and the warning if the run is silent."""

import json
import os
import threading

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.output import tolerant
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.reporting.display import Display, PlainDisplay
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.facts import run_facts
from hvd_dqn.tools import watch as watching
from hvd_dqn.tools.runs import RecordReader
from hvd_dqn.tools.watch import watch
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn


class Seen(Display):
    """Keeps what is printed."""

    def __init__(self):
        self.title, self.steps, self.evaluations = "", [], []
        self.said, self.best, self.stopped = [], None, False

    def start(self, title, details, run_dir, env_steps):
        self.title = title

    def evaluated(self, env_steps, metrics, best):
        self.steps.append(env_steps)
        self.evaluations += [name for name in metrics if name.endswith("return_mean")]
        self.best = best

    def update(self, progress, metrics, seconds_left=None):
        self.steps.append(progress.env_steps)
        self.left = seconds_left

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
    """The records arrive in pieces that end within lines."""
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
    assert seen.evaluations == ["evaluation/return_mean"] * 3 + ["closing/return_mean"]
    assert seen.title == "CartPole-v1 · test · 1 rank (local) · seed 0"
    assert seen.stopped


def test_once_shows_the_current_state(finished):
    seen = Seen()
    assert watch(finished.path, follow=False, display=seen)
    assert seen.evaluations == ["evaluation/return_mean", "closing/return_mean"]
    records = [json.loads(line) for line in finished.metrics_file.read_text().splitlines()]
    means = [r["evaluation/return_mean"] for r in records if "evaluation/return_mean" in r]
    assert seen.best[0] == max(means)
    done = hvd_dqn("watch", str(finished.path), "--once", launcher="none")
    assert done.code == 0, done.output
    assert "final evaluation at 2,400 env steps" in done.output


def test_one_warning_if_there_is_neither_record_nor_heartbeat(finished, tmp_path, monkeypatch):
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
    (line,) = [line for line in seen.said if "for 60 s" in line]
    assert "the run has stopped" in line


def test_a_file_that_became_shorter_is_read_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    reader = RecordReader(file)
    assert reader.read_new() == []
    one, two = ({"env_steps": step, "updates": 0, "seconds": 1.0, "x": None} for step in (1, 2))
    file.write_text(f'{json.dumps(one)}\n{json.dumps(two)}\n{{"env')
    assert reader.read_new() == [one, two]
    assert reader.read_new() == []
    file.write_text(f"{json.dumps(one)}\n")
    assert reader.read_new() == [one]
    with file.open("a") as more:
        more.write("not JSON\n")
    with pytest.raises(UserError, match="line 2 is not JSON"):
        reader.read_new()


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


def test_a_directory_without_a_run(tmp_path):
    done = hvd_dqn("watch", str(tmp_path), launcher="none")
    assert done.code == 2
    assert str(tmp_path) in done.output


def test_once_states_the_time_left_by_the_runs_own_clock(tmp_path):
    """And that nothing will happen if the run is not running."""
    place = RunDirectory(tmp_path)
    config = small_config().changed({"total_env_steps": 4000})
    place.create(config, run_facts(config, ["a"], "local", 1, ["cpu"], {}))
    records = [
        {"env_steps": 1000 * k, "updates": 10 * k, "seconds": 100.0 + 50 * k} for k in (1, 2, 3)
    ]
    place.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    seen = Seen()
    assert not watch(tmp_path, follow=False, display=seen)
    assert seen.left == 50.0
    assert [line for line in seen.said if "the run has stopped" in line]
    place.heartbeats.mkdir()
    (place.heartbeats / "rank-0.json").touch()
    seen = Seen()
    watch(tmp_path, follow=False, display=seen)
    assert seen.said == []


def test_watching_ends_if_nobody_reads(tmp_path, monkeypatch):
    place = RunDirectory(tmp_path)
    place.create(small_config(), run_facts(small_config(), ["a"], "local", 1, ["cpu"], {}))
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("sys.stdout", tolerant(os.fdopen(writing, "w")))
    assert not watch(tmp_path, display=PlainDisplay(100), sleep=lambda _: None)
