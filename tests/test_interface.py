"""Training from Python: callbacks on one rank and on two, and how a run ends."""

import json
import os
import signal
import time

import numpy as np
import pytest

import hvd_dqn
from hvd_dqn.commands.options import parse_train
from hvd_dqn.common.errors import AgreedError, RunError, UserError
from hvd_dqn.config import Config
from hvd_dqn.presets import preset
from tests.distributed.workers import small_config
from tests.launching import launch

CHANGES = {"total_env_steps": 2000, "distributed.threads_per_rank": 1}


def test_callbacks_get_the_records_that_are_written(tmp_path):
    events = []
    run = hvd_dqn.train(
        small_config(), CHANGES, run_dir=tmp_path / "run", callbacks=[events.append]
    )
    assert run.summary.progress.env_steps == 2000
    written = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [event.env_steps for event in events] == [record["env_steps"] for record in written]
    kinds = {"evaluation/return_mean": "evaluation", "closing/return_mean": "closing"}
    for event, record in zip(events, written, strict=True):
        assert event.updates == record["updates"]
        for name, value in event.metrics.items():
            assert record[name] == pytest.approx(value, nan_ok=True) or np.isnan(value)
        (kind,) = {kinds[name] for name in kinds if name in record} or {"record"}
        assert event.kind == kind
    assert run.policy().act(np.zeros(4)).shape == ()
    assert run.policy("newest").saved.env_steps == 2000


def test_a_run_stopped_by_a_callback_resumes_to_the_same_end(tmp_path):
    def impatient(event):
        if event.env_steps >= 900:
            event.stop("it is good enough")

    whole = hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "whole")
    place = tmp_path / "parted"
    first = hvd_dqn.train(small_config(), CHANGES, run_dir=place, callbacks=[impatient])
    assert first.stopped.startswith("stopped by it is good enough on rank 0")
    assert first.summary.stopped == first.stopped
    assert 900 <= first.summary.progress.env_steps < 1000, "before the first evaluation"
    last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["closing/return_mean"] == pytest.approx(first.summary.score.mean)
    assert json.loads((place / "final.json").read_text())["returns"] == first.summary.score.returns
    second = hvd_dqn.train(small_config(), CHANGES, run_dir=place)
    assert second.summary.score == whole.summary.score
    assert second.stopped == ""
    third = hvd_dqn.train(small_config(), CHANGES, run_dir=place)
    assert third.summary.is_repeated
    assert third.summary.score == whole.summary.score


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        ("cartpol", {}, "unknown preset 'cartpol'"),
        (
            "cartpole",
            {"replay.capacit": 3},
            "unknown setting 'replay.capacit': did you mean 'replay.capacity'",
        ),
        ("cartpole", {"objective.gamma": 7.0}, "between 0 and 1"),
        ("cartpole", {"env.id": "NoSuchThing-v0"}, "NoSuchThing"),
    ],
)
def test_bad_arguments(tmp_path, config, changes, said):
    with pytest.raises((UserError, AgreedError), match=said):
        hvd_dqn.train(config, changes, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_may_be_written_with_hyphens_as_errors_write_them(tmp_path):
    with pytest.raises(UserError, match=r"env\.num-envs = 0: must be greater than 0"):
        hvd_dqn.train(small_config(), {"env.num-envs": 0}, run_dir=tmp_path / "run")


def test_a_slow_callback_raises_and_does_not_end_the_process(tmp_path):
    def slow(event):
        if event.kind == "record":
            time.sleep(5)

    changes = CHANGES | {"distributed.hang_seconds": 2.0}
    with pytest.raises(RunError, match=r"no progress for 2 s .*raise distributed\.hang-seconds"):
        hvd_dqn.train(small_config(), changes, run_dir=tmp_path / "run", callbacks=[slow])
    assert "in slow" in (tmp_path / "run/crash-rank-0.txt").read_text()
    assert hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "run").summary is not None


def test_one_interrupt_saves_and_a_second_ends_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def once(event):
        if event.env_steps < 600:
            os.kill(os.getpid(), signal.SIGINT)

    run = hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "run", callbacks=[once])
    assert run.summary is None
    assert run.stopped.startswith("stopped by SIGINT on rank 0")

    def twice(event):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "run", callbacks=[twice])
    assert signal.getsignal(signal.SIGINT) is before
    assert hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "run").summary is not None


@pytest.mark.parametrize("when", ["made", "reset"])
def test_signals_that_an_environment_takes_away_still_stop_the_run(tmp_path, capsys, when):
    def terminate(event):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    changes = CHANGES | {
        "env.id": "tests.run.toys:Deaf-v0",
        "env.kwargs": json.dumps({"when": when}),
    }
    run = hvd_dqn.train(small_config(), changes, run_dir=tmp_path / "run", callbacks=[terminate])
    assert run.stopped.startswith("stopped by SIGTERM on rank 0")
    said = capsys.readouterr().out
    assert said.count("had replaced the handlers of SIGTERM; these signals request") == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_nothing_after_the_result_fails_the_run(tmp_path, capsys, monkeypatch):
    def broken(sink):
        raise OSError("the server is gone")

    monkeypatch.setattr("hvd_dqn.reporting.sinks.FileSink.close", broken)
    run = hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "run")
    assert run.summary is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("OSError: the server is gone")


def test_a_presets_name_is_applied_in_a_file_and_refused_as_a_label(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"preset": "rainbow", "seed": 7}))
    rainbow = preset("rainbow")
    assert parse_train(["--config", str(file)]).config == rainbow.changed({"seed": 7})
    own = rainbow.changed({"objective.gamma": 0.5, "network.noisy": False})
    file.write_text(own.to_json())
    assert parse_train(["--config", str(file)]).config == own, "a run's own file"
    file.write_text(json.dumps({"preset": "mine", "seed": 7}))
    assert parse_train(["--config", str(file)]).config == Config(preset="mine", seed=7)
    with pytest.raises(UserError, match="start from it: hvd-dqn train rainbow"):
        parse_train(["cartpole", "--preset", "rainbow"])
    with pytest.raises(UserError, match="start from it"):
        hvd_dqn.train("cartpole", {"preset": "rainbow"}, run_dir=tmp_path / "run")
    assert parse_train(["cartpole", "--preset", "mine"]).config.preset == "mine"


def test_an_error_leaves_its_traceback_in_the_run_directory(tmp_path):
    def broken(event):
        raise RuntimeError("this callback breaks")

    with pytest.raises(RuntimeError, match="this callback breaks"):
        hvd_dqn.train(small_config(), CHANGES, run_dir=tmp_path / "run", callbacks=[broken])
    assert "in broken" in (tmp_path / "run/crash-rank-0.txt").read_text()


SCRIPT = """
import json, os, sys
import hvd_dqn
from tests.distributed.workers import small_config

told = []
def note(event):
    told.append([event.kind, event.env_steps, event.updates, event.metrics])
    if MODE == "raise" and event.rank == 1 and event.updates > 50:
        raise RuntimeError("this callback breaks")
    if MODE == "stop" and event.rank == 1 and event.env_steps >= 900:
        event.stop("rank 1 has seen enough")

MODE, place = sys.argv[1:]
changes = {"distributed.threads_per_rank": 1}
run = hvd_dqn.train(small_config(), changes, run_dir=place, callbacks=[note])
if MODE == "stop":
    assert "rank 1 has seen enough on rank 1" in run.summary.stopped
    stopped_after = len(told)
    MODE = "resume"
    run = hvd_dqn.train(small_config(), changes, run_dir=place, callbacks=[note])
    assert len(told) > stopped_after
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
with open(f"{place}/told-{rank}.json", "w") as file:
    json.dump([told, run.summary.score.returns], file)
if MODE == "wrong":
    hvd_dqn.train(small_config(), changes | ({"sed": 1} if rank else {}), run_dir=place + "-2")
if MODE == "late" and rank == 1:
    raise RuntimeError("the script breaks after its run")
"""


def run_script(tmp_path, mode):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launch([str(script), mode, str(tmp_path / "run")], PYTHONPATH=".")
    told = [tmp_path / f"run/told-{rank}.json" for rank in (0, 1)]
    return done, [json.loads(file.read_text()) if file.exists() else None for file in told]


@pytest.mark.multirank
@pytest.mark.parametrize("mode", ["whole", "stop"])
def test_callbacks_of_two_ranks_get_the_same_at_the_same_updates(tmp_path, mode):
    done, (ours, theirs) = run_script(tmp_path, mode)
    assert done.code == 0, done.output
    assert ours[1] == theirs[1], "the closing evaluation"
    assert len(ours[0]) == len(theirs[0]) > 8
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one[:3] == other[:3]
        for name, value in one[3].items():
            assert value == other[3][name] or value != value, name


@pytest.mark.multirank
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("raise", "this callback breaks"),
        ("late", "the script breaks after its run"),
        ("wrong", "unknown setting 'sed'"),
    ],
)
def test_an_error_on_one_rank_ends_all(tmp_path, mode, said):
    done, told = run_script(tmp_path, mode)
    assert done.code != 0
    assert said in done.output
    assert (told == [None, None]) == (mode == "raise")


def test_dir_lists_the_public_names():
    assert dir(hvd_dqn) == sorted(hvd_dqn.__all__)
    for name in dir(hvd_dqn):
        assert getattr(hvd_dqn, name) is not None


def test_a_mistyped_setting_suggests_the_one_that_was_meant():
    with pytest.raises(UserError, match=r"did you mean 'optimizer\.learning_rate'\?"):
        hvd_dqn.train("cartpole", {"learning-rate": 1.0})
