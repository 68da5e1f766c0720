"""What TensorBoard, Weights & Biases and MLflow store of a run, read back from their own files: a
resumed run stays one run there.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
import threading
import time
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.common.signals import StopRequest
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.reporting.loggers import Loggers, opening
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.launching import hvd_dqn, wait_until

SETTINGS = {
    "total_env_steps": 600,
    "evaluation.episodes": 1,
    "evaluation.final_episodes": 1,
    "evaluation.period_env_steps": 200,
    "evaluation.max_episode_steps": 20,
    "checkpoint.period_env_steps": 96,
    "logging.period_env_steps": 40,
}


def go(path, loggers, *, looks=None, **more):
    """Start or resume a run; stop it after `looks` checks for a request to stop."""
    options = {name.replace("__", "."): value for name, value in more.items()}
    config = small_config().changed(SETTINGS | {"logging.loggers": loggers} | options)
    stop = StopRequest()
    if looks is not None:

        class Soon(StopRequest):
            @property
            def reason(self):
                nonlocal looks
                looks -= 1
                return "the test" if looks < 0 else None

        stop = Soon()
    run_dir = RunDirectory(path)
    if looks is None:
        train(config, LocalCommunicator(), run_dir, stop=stop)
    else:
        with pytest.raises(StoppedError):
            train(config, LocalCommunicator(), run_dir, stop=stop)
    return run_dir


def records(run_dir):
    return [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]


def of(name, run_dir):
    """Return env steps and values of a metric in `metrics.jsonl`."""
    return [(r["env_steps"], r[name]) for r in records(run_dir) if r.get(name) is not None]


def approximately(pairs):
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in pairs]


def run_id(run_dir):
    return json.loads(run_dir.facts_file.read_text())["id"]


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"logging__histograms": True, "logging__video": True}
    run_dir = go(tmp_path / "run", ("tensorboard",), looks=70, **options)
    first = run_id(run_dir)
    go(tmp_path / "run", ("tensorboard",), **options)
    assert run_id(run_dir) == first
    events = EventAccumulator(
        str(run_dir.path / "tensorboard"),
        size_guidance=dict.fromkeys(("scalars", "histograms", "images"), 0),
    )
    events.Reload()
    for name in ("loss/td_huber", "evaluation/return_mean", "closing/return_mean"):
        seen = [(e.step, e.value) for e in events.Scalars(name)]
        assert seen == approximately(of(name, run_dir))
        assert seen
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("rank/")]
    histograms = events.Tags()["histograms"]
    assert {name.partition("/")[0] for name in histograms} == {"parameters", "gradients"}
    weights = events.Histograms(next(n for n in histograms if n.startswith("parameters/torso")))
    assert [event.step for event in weights] == [200, 400, 600]
    assert weights[0].histogram_value.num > 10
    videos = sorted(run_dir.videos.iterdir(), key=lambda path: int(path.stem))
    assert [path.name for path in videos] == ["200.gif", "400.gif", "600.gif"]
    shown = events.Images("video/episode")
    assert [e.encoded_image_string for e in shown] == [path.read_bytes() for path in videos]
    with Image.open(videos[-1]) as video:
        assert video.n_frames > 3
        assert video.size == (shown[-1].width, shown[-1].height)
    settings = events.summary_metadata["_hparams_/session_start_info"]
    assert b"optimizer.learning_rate" in settings.plugin_data.content


def test_tensorboard_ignores_records_after_the_checkpoint_of_a_killed_start(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hvd_dqn.reporting.loggers import LoggedRun, open_loggers

    def start(env_steps):
        config = small_config().flat()
        run = LoggedRun("7", "run", tmp_path, config, env_steps)
        return open_loggers(("tensorboard",), run)

    for begin, values in ((0, (10, 20, 30)), (20, (30, 40)), (0, (10, 20))):
        loggers = start(begin)
        for step in values:
            loggers.scalars(step, {"a": float(step + begin)})
        loggers.close()
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert [e.step for e in events.Scalars("a")] == [*range(10, begin + 1, 10), *values]


def wandb_records(path):
    """The records of a run's file: protocol buffers in the framing of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32_768 - position % 32_768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        if position + 7 + length > len(data):
            return  # it is still being written
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def wandb_history(path):
    rows = []
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            rows.append({name: json.loads(value) for name, value in items.items()})
    return rows


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    return pytest.importorskip("wandb")


def test_weights_and_biases_has_one_run(tmp_path, offline):
    options = {"logging__histograms": True, "logging__video": True}
    run_dir = go(tmp_path / "run", ("wandb",), looks=70, **options)
    go(tmp_path / "run", ("wandb",), **options)
    files = sorted((run_dir.path / "wandb").glob("offline-run-*/*.wandb"))
    files.sort(key=lambda path: path.stat().st_mtime_ns)
    assert {path.name for path in files} == {f"run-{run_id(run_dir)}.wandb"}, "one id"
    assert len(files) == 2, "one file per start"
    for path in files:  # wandb's process may write the end a moment after `finish` has returned
        wait_until(
            lambda path=path: any(r.HasField("exit") for r in wandb_records(path)), "its end"
        )
    rows = [row for path in files for row in wandb_history(path)]
    assert all(row["_step"] == row["env_steps"] for row in rows)
    for name in ("loss/td_huber", "evaluation/return_mean", "closing/return_mean"):
        assert [(row["_step"], row[name]) for row in rows if name in row] == approximately(
            of(name, run_dir)
        )
    assert [row["_step"] for row in rows if "video/episode/path" in row] == [200, 400, 600]
    assert [row["_step"] for row in rows if "parameters/torso.1.bias/_type" in row] == [
        200,
        400,
        600,
    ]
    (run,) = [r.run for r in wandb_records(files[0]) if r.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["env.id"] == "CartPole-v1"
    assert run.run_group.endswith("CartPole-v1")
    ends = [r for path in files for r in wandb_records(path)]
    kinds = [r.WhichOneof("record_type") for r in ends]
    assert kinds.count("preempting") == 1, "the first start may be resumed"
    assert [r.exit.exit_code for r in ends if r.WhichOneof("record_type") == "exit"] == [1, 0]


@pytest.fixture
def tracked(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient()


def test_mlflow_has_one_run(tmp_path, tracked):
    run_dir = go(tmp_path / "run", ("mlflow",), looks=70, logging__video=True)
    experiment = tracked.get_experiment_by_name("hvd_dqn").experiment_id
    (run,) = tracked.search_runs([experiment])
    assert run.info.status == "KILLED"
    # sent by a start that was killed after its checkpoint
    tracked.log_metric(run.info.run_id, "exploration/epsilon", 0.5, step=450)
    go(tmp_path / "run", ("mlflow",), logging__video=True)
    (run,) = tracked.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.name"] == small_config().optimizer.name
    for name in ("loss/td_huber", "evaluation/return_mean", "closing/return_mean"):
        history = [(m.step, m.value) for m in tracked.get_metric_history(run.info.run_id, name)]
        assert history == approximately(of(name, run_dir))
    epsilon = [m.step for m in tracked.get_metric_history(run.info.run_id, "exploration/epsilon")]
    assert 450 in epsilon
    assert len(set(epsilon)) == len(epsilon), "no value twice"
    videos = {file.path for file in tracked.list_artifacts(run.info.run_id, "videos")}
    assert videos == {f"videos/{step}.gif" for step in (200, 400, 600)}


def test_an_experiment_that_another_job_just_created_is_used(tmp_path, tracked, monkeypatch):
    import mlflow

    theirs = tracked.create_experiment("hvd_dqn")
    look, looks = mlflow.MlflowClient.get_experiment_by_name, []

    def too_early(client, name):
        looks.append(name)
        return None if len(looks) == 1 else look(client, name)

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", too_early)
    go(tmp_path / "run", ("mlflow",))
    assert len(tracked.search_runs([theirs])) == 1
    assert len(looks) == 2


OWN = """
import sqlite3

class Lines:
    def __init__(self, run):
        self.file = (run.directory / "lines.txt").open("a")
        self.database = sqlite3.connect(":memory:")
        self.file.write(f"begin {run.id} {run.name} {run.env_steps} {run.config['seed']}\\n")
    def scalars(self, env_steps, metrics):
        if env_steps > 200:
            raise SystemExit("the pen\\nis empty")
        self.file.write(f"{env_steps} {len(metrics)}\\n")
        self.database.execute("select 1")  # works only on the thread that opened it
    def histograms(self, env_steps, values):
        pass
    def video(self, env_steps, path):
        pass
    def close(self, outcome):
        self.file.write(outcome)
        self.file.close()
class Refuses:
    def __init__(self, run):
        raise ConnectionError("nobody\\nanswers")
"""


def test_a_logger_from_outside_the_package_and_its_errors(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_lines.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    run_dir = go(tmp_path / "run", ("own_lines:Lines",))
    lines = (run_dir.path / "lines.txt").read_text().splitlines()
    assert lines[0] == f"begin {run_id(run_dir)} run 0 {small_config().seed}"
    assert [int(line.split()[0]) for line in lines[1:-1]] == [40, 80, 120, 160, 200, 200]
    said = [line for line in capsys.readouterr().err.splitlines() if "own_lines" in line]
    assert said == ["hvd-dqn: no more records for own_lines:Lines: SystemExit: the pen is empty"]
    assert lines[-1] == "stopped", "it was closed"
    assert of("closing/return_mean", run_dir), "the run continued"
    with pytest.raises(UserError, match=r"own_lines:Refuses cannot be opened: .* nobody answers"):
        go(tmp_path / "other", ("own_lines:Refuses",))
    for name, said in (
        ("own_lines:Lime", "module 'own_lines' has no class 'Lime'"),
        ("own_broken:A", "cannot be imported: RuntimeError: not today"),
    ):
        with pytest.raises(UserError, match=said):
            go(tmp_path / "other", (name,))


def test_a_resumed_run_continues_without_a_logger_that_fails_to_open(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_moody.py").write_text(
        "from own_lines import *\nimport os\n"
        "class Moody(Lines):\n    def __init__(self, run):\n"
        "        if run.env_steps: raise ConnectionError('the server is down')\n"
        "        super().__init__(run)\n"
    )
    (tmp_path / "own_lines.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    run_dir = go(tmp_path / "run", ("own_moody:Moody",), looks=70)
    go(tmp_path / "run", ("own_moody:Moody",))
    assert "continuing without own_moody:Moody: ConnectionError: the" in capsys.readouterr().err
    assert of("closing/return_mean", run_dir)


class Shy(gym.Env):
    """Declares a render mode, and fails to render."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space, action_space = gym.spaces.Box(0, 1, (2,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, self.np_random.random() < 0.1, False, {}

    def render(self):
        raise RuntimeError("no display for drawing")


class Unseen(Shy):
    """Declares no render mode."""

    metadata: ClassVar = {"render_modes": []}


gym.register("Shy-v0", Shy, max_episode_steps=20)
gym.register("Unseen-v0", Unseen, max_episode_steps=20)


def test_an_error_while_rendering_costs_only_the_video(tmp_path, capsys):
    run_dir = go(tmp_path / "run", (), logging__video=True, env__id="Shy-v0")
    assert of("closing/return_mean", run_dir)
    said = [line for line in capsys.readouterr().out.splitlines() if "videos" in line]
    assert len(said) == 1
    assert "RuntimeError: no display for drawing" in said[0]
    assert list(run_dir.videos.iterdir()) == []
    with pytest.raises(UserError, match="does not support render_mode"):
        go(tmp_path / "other", (), logging__video=True, env__id="Unseen-v0")
    assert not (tmp_path / "other").exists()


class Slow:
    """A logger that waits for an event."""

    def __init__(self):
        self.go, self.told = threading.Event(), []

    def scalars(self, env_steps, metrics):
        self.go.wait(30)
        self.told.append(env_steps)

    def histograms(self, env_steps, values):
        self.told.append(-env_steps)

    def close(self, outcome):
        self.told.append(outcome)


def test_a_slow_logger_delays_only_other_loggers(monkeypatch, capsys):
    monkeypatch.setattr(opening, "_CLOSE_SECONDS", {"finished": 0.2, "stopped": 0.2})
    monkeypatch.setattr(opening, "_MAX_PENDING", 8)
    slow, quick = Slow(), Slow()
    quick.go.set()
    loggers = Loggers({"slow": lambda: slow, "quick": lambda: quick})
    began = time.monotonic()
    for step in range(5):
        loggers.scalars(step, {"closing/return_mean": 1.0})
    loggers.close()
    assert time.monotonic() - began < 5
    assert slow.told == quick.told == []
    assert "slow is not closed after 0 s" in capsys.readouterr().err
    slow.go.set()
    loggers._thread.join(30)
    assert slow.told == quick.told == [0, 1, 2, 3, 4, "finished"]
    stuck = Slow()
    loggers = Loggers({"stuck": lambda: stuck})
    for step in range(20):
        loggers.scalars(step, {})
    assert capsys.readouterr().err.count("stuck is 8 records behind") == 1
    stuck.go.set()
    loggers.close()
    assert len(stuck.told) in (9, 10), "eight that waited, one under way, and the outcome"


def test_a_logger_has_a_time_limit_to_open(monkeypatch, capsys):
    monkeypatch.setattr(opening, "_OPEN_SECONDS", 0.2)
    monkeypatch.setattr(opening, "_CLOSE_SECONDS", {"finished": 30, "stopped": 0.2})
    may_open, slow, quick = threading.Event(), Slow(), Slow()
    slow.go.set()
    quick.go.set()

    def late():
        may_open.wait(30)
        return slow

    with pytest.raises(UserError, match="late cannot be opened: TimeoutError: not open after 0 s"):
        Loggers({"late": late})
    loggers = Loggers({"late": late, "quick": lambda: quick}, required=False)
    assert "continuing without late: TimeoutError" in capsys.readouterr().err
    loggers.scalars(10, {"closing/return_mean": 1.0})
    may_open.set()
    loggers.close()
    assert quick.told == [10, "finished"]
    told = [
        item for item in slow.told if item != "stopped"
    ]  # by the rejected run, which opens it too
    assert told == [10, "finished"], "it gets all records once it is open"


def test_arrays_are_dropped_if_a_logger_is_behind(monkeypatch):
    monkeypatch.setattr(opening, "_MAX_PENDING_ARRAYS", 3)
    slow = Slow()
    loggers = Loggers({"slow": lambda: slow})
    for step in range(1, 11):
        loggers.scalars(step, {})
        loggers.histograms(step, {})
    slow.go.set()
    loggers.close()
    assert [step for step in slow.told[:-1] if step > 0] == [*range(1, 11)], "every number"
    assert slow.told.count(-1) == 1
    assert -10 not in slow.told


HEARS = """
class Hears:
    heard = []
    def __init__(self, run):
        self.begun = run.env_steps
    def histograms(self, env_steps, values):
        kinds = {name.partition("/")[0] for name in values}
        self.heard.append((self.begun, env_steps, sorted(kinds)))
    def scalars(self, env_steps, metrics): pass
    def close(self, outcome): pass
"""


def test_gradient_histograms_are_those_of_this_start(tmp_path, monkeypatch):
    """A run resumed with an evaluation that a stop left undone has no gradients yet."""
    (tmp_path / "own_hears.py").write_text(HEARS)
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config().changed(
        SETTINGS | {"logging.loggers": ("own_hears:Hears",), "logging.histograms": True}
    )

    stop = StopRequest()

    def stop_at_400(event):
        if event.env_steps == 400:
            stop.request_after(0)

    run_dir = RunDirectory(tmp_path / "run")
    with pytest.raises(StoppedError):
        train(config, LocalCommunicator(), run_dir, stop=stop, callbacks=(stop_at_400,))
    train(config, LocalCommunicator(), run_dir)
    both = ["gradients", "parameters"]
    heard = sys.modules["own_hears"].Hears.heard
    assert heard == [(0, 200, both), (400, 400, ["parameters"]), (400, 600, both)]


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_is_reported_with_its_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"hvd_dqn.reporting.loggers.{name}", raising=False)
    with pytest.raises(UserError, match=rf"pip install 'hvd_dqn\[{name}\]', or run without"):
        go(tmp_path / "run", (name,))
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_names_are_checked():
    for names in (("tensorbord",), ("wandb", "wandb"), (":",), ("a:",)):
        with pytest.raises(UserError, match=r"logging.loggers = .*tensorboard, wandb, mlflow and"):
            small_config().changed({"logging.loggers": names})


@pytest.mark.multirank
def test_two_ranks_log_one_run(tmp_path, offline):
    done = hvd_dqn(
        *("train", "cartpole", "--run-dir", str(tmp_path / "run"), "--total_env_steps=1200"),
        *("--learning_starts_env_steps=600", "--logging.loggers", "wandb", "tensorboard"),
        *("--evaluation.final_episodes=2", "--evaluation.episodes=2", "--logging.video=True"),
        WANDB_MODE="offline",
    )
    assert done.code == 0, done.output
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert any("closing/return_mean" in row for row in wandb_history(file))
    assert list((tmp_path / "run" / "videos").glob("*.gif"))


@pytest.mark.multirank
def test_filming_on_the_root_is_not_counted_as_waiting(tmp_path):
    settings = SETTINGS | {
        "env.id": "tests.envs.toy:ToyPainted-v0",
        "env.num_envs": 2,
        "evaluation.max_episode_steps": 1000,
        "checkpoint.period_env_steps": 10_000,  # it would synchronise ranks too
        "logging.video": True,
        "logging.loggers": (),
    }
    config = tmp_path / "config.json"
    config.write_text(small_config().changed(settings).to_json())
    done = hvd_dqn("train", "--config", str(config), "--run-dir", str(tmp_path / "run"))
    assert done.code == 0, done.output
    run_dir = RunDirectory(tmp_path / "run")
    assert len(list(run_dir.videos.iterdir())) == 3
    # Filming takes 4 s, a period less than a tenth of that: the share would exceed 0.9.
    filmed = [waited for step, waited in of("rank/waiting/1", run_dir) if step in (240, 440)]
    assert len(filmed) == 2
    assert max(filmed) < 0.85
