"""What resumes, what is refused, and that a refusal leaves a run as it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import hvd_dqn
from hvd_dqn.checkpoint.manifest import _checksum
from hvd_dqn.commands import cli
from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run import requirements
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.distributed.workers import small_config
from tests.run.test_resume import StopAfter
from tests.short_runs import run_of

SMALL = small_config().changed(
    {
        "total_env_steps": 96,
        "learning_starts_env_steps": 24,
        "evaluation.period_env_steps": 48,
        "evaluation.episodes": 1,
        "evaluation.final_episodes": 2,
        "evaluation.max_episode_steps": 20,
        "distributed.threads_per_rank": 1,
    }
)


def begin(path, settings=None, **options):
    config = SMALL.changed(settings or {})
    return train(config, LocalCommunicator(), RunDirectory(Path(path)), **options)


def contents(directory: Path) -> dict[str, str]:
    """Every file and directory, with the checksum of what is in it."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in directory.rglob("*")
    }


def rewrite_saved_config(run_dir: Path, **changes) -> None:
    """Let another version have written the run's settings; `section__field` names one."""
    names = {name.replace("__", "."): value for name, value in changes.items()}
    for manifest in run_dir.glob("checkpoints/step-*/manifest.json"):
        body = json.loads(manifest.read_text())["body"]
        body["config"] |= names
        manifest.write_text(json.dumps({"checksum": _checksum(body), "body": body}))
    saved = json.loads((run_dir / "config.json").read_text())
    for name, value in names.items():
        section, _, field = name.rpartition(".")
        (saved[section] if section else saved)[field] = value
    (run_dir / "config.json").write_text(json.dumps(saved))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    begin(path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"network.hidden_sizes": (16,)},
        {"network.dueling": True},
        {"objective.distribution": "quantile"},
        {"env.frame_stack": 2},
        {"env.id": "Acrobot-v1"},
        {"replay.sampling": "prioritized"},
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_written(finished, changes):
    before = contents(finished)
    with pytest.raises(
        UserError, match=r"does not match this run|cannot be used|was trained with actions"
    ):
        begin(finished, changes | {"total_env_steps": 200}, changes=set(changes))
    assert contents(finished) == before


def test_a_refused_start_from_another_run_leaves_no_directory(finished, tmp_path):
    with pytest.raises(UserError, match="does not match this run"):
        begin(
            tmp_path / "new/run",
            {"network.hidden_sizes": (16,)},
            changes={"network.hidden_sizes"},
            resume=str(finished),
        )
    assert list(tmp_path.iterdir()) == []


def test_ranks_without_a_shared_place_leave_nothing(finished, tmp_path, monkeypatch):
    def missing(store, name):
        raise UserError("it is not here")

    monkeypatch.setattr(requirements, "_require_file", missing)
    before = contents(finished)
    for path in (tmp_path / "new/run", finished):
        with pytest.raises(UserError, match="it is not here"):
            begin(path, {"total_env_steps": 200})
    assert list(tmp_path.iterdir()) == []
    assert contents(finished) == before


def test_a_logger_that_does_not_open_leaves_no_directory(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(UserError, match="cannot be opened"):
        begin(path, {"logging.loggers": ("tests.run.test_start:Unopenable",)})
    assert not path.exists()


class Unopenable:
    def __init__(self, run):
        (run.directory / "mine").mkdir()
        raise RuntimeError("no server")


@pytest.mark.parametrize("name", ["", "checkpoints", "checkpoints/step-000000000096"])
def test_a_run_starts_from_another_runs_checkpoint(finished, tmp_path, name):
    summary = begin(tmp_path / "run", {"total_env_steps": 144}, resume=str(finished / name))
    assert summary.progress.env_steps == 144
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["from"]["checkpoint"].endswith("step-000000000096")


def test_what_names_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="contains no checkpoint: name a run directory"):
        begin(tmp_path / "run", resume=str(tmp_path / "nowhere"))


def test_a_finished_run_is_returned_and_a_larger_total_extends_it(tmp_path):
    whole = begin(tmp_path / "whole", {"total_env_steps": 144})
    first = begin(tmp_path / "run")
    before = contents(tmp_path / "run")
    again = begin(tmp_path / "run")
    assert again == first._replace(is_repeated=True, seconds=again.seconds)
    assert contents(tmp_path / "run") == before
    extended = begin(tmp_path / "run", {"total_env_steps": 144})
    assert extended.progress.env_steps == whole.progress.env_steps == 144
    with pytest.raises(UserError, match=r"total-env-steps = 144, not 96"):
        begin(tmp_path / "run")


def test_the_command_says_that_a_run_is_finished_and_how_to_extend_it(tmp_path, capsys):
    run_of(tmp_path / "run")
    command = ["train", "--config", f"{tmp_path}/run/config.json", "--run-dir", f"{tmp_path}/run"]
    for _ in range(2):
        assert cli.run(command) == 0
        said = capsys.readouterr().out
        assert f"{tmp_path}/run is finished: return " in said
        assert "--total-env-steps 96" in said
    assert cli.run([*command, "--total-env-steps", "96"]) == 0
    assert "total-env-steps changes from 48 to 96" in capsys.readouterr().out


def test_another_runs_directory_is_named_as_such(finished, capsys):
    command = ["train", "acrobot", "--run-dir", str(finished)]
    assert cli.run(command) == 2
    said = capsys.readouterr().err
    assert "is another one: it trains CartPole-v1 (preset test), not Acrobot-v1 (preset acr" in said
    assert "choose another --run-dir or --resume" in said
    assert cli.run(["train", "cartpole", "--run-dir", str(finished)]) == 2
    assert "it is of preset test, not cartpole, and" in capsys.readouterr().err


def test_a_run_of_an_older_version_resumes_without_settings_that_meant_the_default(tmp_path):
    path = tmp_path / "run"
    begin(path)
    rewrite_saved_config(path, logging__tensorboard=True, evaluation__keep_checkpoints=2)
    assert hvd_dqn.load_policy(path).saved.env_steps > 0
    assert begin(path, {"total_env_steps": 144}).progress.env_steps == 144


def test_other_settings_that_no_longer_exist_are_named(tmp_path):
    path = tmp_path / "run"
    begin(path)
    rewrite_saved_config(path, optimizer__momentum=0.9, logging__tensorboard=False)
    with pytest.raises(UserError) as refused:
        begin(path, {"total_env_steps": 144})
    said = str(refused.value)
    assert "logging.tensorboard = False, optimizer.momentum = 0.9, which this version" in said
    dropped = {"optimizer.momentum", "logging.tensorboard"}
    assert begin(path, {"total_env_steps": 144}, changes=dropped).progress.env_steps == 144
    with pytest.raises(UserError, match="unknown option"):
        begin(path, {"total_env_steps": 200}, changes={"optimizer.momentun"})


def test_a_run_of_an_older_version_has_the_defaults_of_newer_settings(tmp_path):
    path = tmp_path / "run"
    begin(path)
    for manifest in path.glob("checkpoints/step-*/manifest.json"):
        body = json.loads(manifest.read_text())["body"]
        del body["config"]["env.overlap_acting"]
        manifest.write_text(json.dumps({"checksum": _checksum(body), "body": body}))
    assert begin(path, {"total_env_steps": 144}).progress.env_steps == 144


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "config.json"])
def test_files_that_are_links_are_read_and_replaced_by_copies(tmp_path, name):
    path, store = tmp_path / "run", tmp_path / "object"
    with pytest.raises(StoppedError):
        begin(path, stop=StopAfter(8))
    (path / name).rename(store)
    store.chmod(0o444)
    kept = store.read_bytes()
    (path / name).symlink_to(store)
    summary = begin(path)
    assert summary.progress.env_steps == 96
    assert not (path / name).is_symlink()
    assert store.read_bytes() == kept
    assert hvd_dqn.load_policy(path).saved.env_steps > 0


def test_a_linked_network_is_named(finished, tmp_path):
    (network,) = finished.glob("networks/step-000000000096/network.safetensors")
    network.rename(tmp_path / "object")
    network.symlink_to(tmp_path / "object")
    try:
        with pytest.raises(UserError, match=r"network\.safetensors is a symbolic link"):
            hvd_dqn.load_policy(finished, network="newest")
    finally:
        (tmp_path / "object").replace(network)


def test_a_working_directory_that_changes_moves_nothing(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    changes = {
        "env.id": "tests.run.toys:Moving-v0",
        "env.kwargs": json.dumps({"place": str(other)}),
        "checkpoint.directory": "saved",
    }
    for total in (96, 192):
        monkeypatch.chdir(tmp_path)
        begin("runs/a", changes | {"total_env_steps": total})
    monkeypatch.chdir(tmp_path)
    assert cli.run(["evaluate", "runs/a", "--episodes", "2", "--output", "scores.json"]) == 0
    assert Path.cwd() == other, "the environment has moved"
    assert list(other.iterdir()) == []
    assert (tmp_path / "runs/a/config.json").exists()
    assert any((tmp_path / "saved").glob("step-*"))
    assert len(json.loads((tmp_path / "scores.json").read_text())["returns"]) == 2


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    begin("~/run", {"checkpoint.directory": "~/saved"})
    assert (tmp_path / "run/config.json").exists()
    assert any((tmp_path / "saved").glob("step-*"))
    assert hvd_dqn.load_policy("~/run").saved.env_steps > 0
    assert cli.run(["evaluate", "~/run", "--episodes", "1", "--output=~/scores.json"]) == 0
    assert (tmp_path / "scores.json").exists()
    with pytest.raises(UserError, match="write the whole path"):
        RunDirectory(Path("~no-such-user/run"))


def test_the_commands_own_log_may_be_in_the_run_directory(tmp_path):
    log = (tmp_path / "log.txt").open("w")
    before = os.dup(1)
    os.dup2(log.fileno(), 1)
    try:
        RunDirectory(tmp_path).require_new()
    finally:
        os.dup2(before, 1)
        os.close(before)
    log.close()
    with pytest.raises(UserError, match="is not empty"):
        RunDirectory(tmp_path).require_new()


def stop_after(env_steps):
    """Ask for a stop at this record; the checkpoint is that of the next iteration."""

    def stop(event):
        if event.env_steps >= env_steps:
            event.stop("the test")

    return stop


KEEPING = {
    "total_env_steps": 400,
    "evaluation.period_env_steps": 400,
    "logging.period_env_steps": 8,
}


def test_state_that_outlives_an_episode_is_reported(tmp_path, capsys):
    changes = KEEPING | {"env.id": "tests.run.toys:Curriculum-v0"}
    begin(tmp_path / "run", changes, callbacks=[stop_after(200)])
    capsys.readouterr()
    begin(tmp_path / "run", changes)
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "replayed" in text]
    # 52 steps of each: 12 of the third episode, which pay 2; in the replay it is the second reset.
    assert line.startswith(
        "environments 0 of rank 0, 1 of rank 0, 2 of rank 0, 3 of rank 0 replayed the unfinished "
        "episode with other rewards (a return of 12 instead of 24): the environment keeps state "
    )


def test_an_episode_that_ends_early_in_its_replay_is_cut(tmp_path, capsys):
    changes = KEEPING | {"env.id": "tests.run.toys:Shrinking-v0"}
    begin(tmp_path / "run", changes, callbacks=[stop_after(168)])
    capsys.readouterr()
    begin(tmp_path / "run", changes)
    said = capsys.readouterr().out
    assert "environments 0 of rank 0, 1 of rank 0, 2 of rank 0, 3 of rank 0 could not" in said
    assert "replayed the unfinished" not in said


def test_an_environment_without_such_state_resumes_without_a_word(tmp_path, capsys):
    changes = KEEPING | {"env.id": "tests.run.toys:Plain-v0"}
    begin(tmp_path / "run", changes, callbacks=[stop_after(168)])
    capsys.readouterr()
    begin(tmp_path / "run", changes)
    assert "unfinished" not in capsys.readouterr().out


def test_a_refused_start_does_not_disturb_the_process_that_runs_there(tmp_path):
    path = tmp_path / "run"
    begin(path)
    directory = RunDirectory(path)
    (directory.heartbeats / "rank-0.json").write_text("{}")
    with directory.lock(), pytest.raises(UserError, match="another process is running"):
        begin(path, {"total_env_steps": 144})
    assert (directory.heartbeats / "rank-0.json").exists()
