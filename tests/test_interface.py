"""Training from Python: callbacks on one rank and on two, and how a run ends."""

import json

import numpy as np
import pytest

import hvd_dqn
from hvd_dqn.common.errors import AgreedError, UserError
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
    assert first.summary is None
    assert first.stopped.startswith("stopped by it is good enough on rank 0")
    second = hvd_dqn.train(small_config(), CHANGES, run_dir=place)
    assert second.summary.score == whole.summary.score


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
    assert run.summary is None
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
