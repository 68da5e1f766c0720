"""The writing thread, and the checkpoints that remain after an error."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest

from hvd_dqn.checkpoint.store import LocalStore
from hvd_dqn.common.errors import StoppedError, UserError
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.learner import NonFiniteError
from hvd_dqn.networks.saved import NetworkDirectory
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.training import train
from tests.checkpoints import assert_equal, everything
from tests.distributed.workers import small_config
from tests.run.test_resume import StopAfter

CONFIG = small_config().changed(
    {"distributed.threads_per_rank": 1, "checkpoint.period_env_steps": 240}
)


def run(path, config=CONFIG, **options):
    return train(config, LocalCommunicator(), RunDirectory(Path(path)), **options)


def test_no_row_is_overwritten_while_a_slow_disk_reads_it(tmp_path, monkeypatch):
    """A ring of 25 rows an environment, 60 steps between checkpoints: each one holds it all."""
    config = CONFIG.changed(
        {"replay.capacity": 100, "logging.period_env_steps": 1200, "checkpoint.keep": 5}
    )
    run(tmp_path / "fast", config)
    write = LocalStore.write

    def slowly(self, name, chunks):
        def late():
            for chunk in chunks:
                time.sleep(0.02)
                yield bytes(chunk)

        return write(self, name, map(memoryview, late()))

    monkeypatch.setattr(LocalStore, "write", slowly)
    run(tmp_path / "slow", config)
    for back in range(5):  # counted back from the newest
        fast, slow = (everything(tmp_path / n / "checkpoints", back) for n in ("fast", "slow"))
        assert_equal(fast, slow)


def failing(monkeypatch, name, when):
    """Let this method of the store fail if `when` is true of its first argument."""
    method = getattr(LocalStore, name)

    def call(self, first, *rest):
        if when(first):
            raise OSError(errno.EIO, "Input/output error")
        return method(self, first, *rest)

    monkeypatch.setattr(LocalStore, name, call)


def test_after_a_failed_checkpoint_the_next_is_complete(tmp_path, monkeypatch, capsys):
    run(tmp_path / "good")
    failing(monkeypatch, "write", lambda name: "0000000009" in name or "0000000014" in name)
    run(tmp_path / "parted")
    assert "checkpoint failed: rank 0 on" in capsys.readouterr().out
    assert_equal(
        everything(tmp_path / "good/checkpoints"), everything(tmp_path / "parted/checkpoints")
    )


def test_a_manifest_that_cannot_be_read_keeps_every_segment(tmp_path, monkeypatch):
    count = 0

    def sometimes(name):
        nonlocal count
        count += name.endswith("manifest.json")
        return name.endswith("manifest.json") and count % 3 == 0

    run(tmp_path / "good")
    failing(monkeypatch, "open", sometimes)
    with pytest.raises(StoppedError):
        run(tmp_path / "parted", stop=StopAfter(1000))
    assert count > 9
    monkeypatch.undo()
    run(tmp_path / "parted")
    assert_equal(
        everything(tmp_path / "good/checkpoints"), everything(tmp_path / "parted/checkpoints")
    )


@pytest.mark.parametrize(("fault", "what"), [("nan", "a reward"), ("blind", "an observation")])
def test_poisoned_experience_is_not_saved(tmp_path, capsys, fault, what):
    """It is in the replay long before the first update would notice."""
    kwargs = json.dumps({"fault": fault, "after": 150})
    config = CONFIG.changed(
        {
            "env.id": "tests.envs.toy:ToyFaulty-v0",
            "env.kwargs": kwargs,
            "learning_starts_env_steps": 1600,
        }
    )
    with pytest.raises(NonFiniteError):
        run(tmp_path / "run", config)
    assert f"the replay holds {what} that is not finite" in capsys.readouterr().out
    saved = [int(p.name[5:]) for p in (tmp_path / "run/checkpoints").glob("step-*")]
    assert max(saved) <= 600, "the newest is older than the fault"


def test_an_unreadable_checkpoint_is_not_passed_over(tmp_path, monkeypatch):
    with pytest.raises(StoppedError):
        run(tmp_path / "run", stop=StopAfter(80))
    before = sorted((tmp_path / "run").rglob("*"))
    failing(monkeypatch, "open", lambda name: name.endswith(".bin"))
    with pytest.raises(UserError, match=r"cannot be read .*try again"):
        run(tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_resuming_from_the_runs_own_checkpoint_by_another_path_removes_nothing(
    tmp_path, monkeypatch
):
    run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    checkpoints = sorted((tmp_path / "run/checkpoints").glob("step-*"))
    summary = run("run", resume=str(checkpoints[-1]))
    assert summary.progress.env_steps == 2400
    assert sorted((tmp_path / "run/checkpoints").glob("step-*")) == checkpoints
    run(tmp_path / "other")
    with pytest.raises(UserError, match="contains checkpoints of another run"):
        run(tmp_path / "other", resume=str(checkpoints[-1]))


def test_the_best_network_exists_after_a_resume_in_another_directory(tmp_path):
    store = {"checkpoint.directory": str(tmp_path / "store")}
    for name, looks in (("one", 1000), ("two", 10)):  # the second ends before it evaluates
        with pytest.raises(StoppedError):
            run(tmp_path / name, CONFIG.changed(store), stop=StopAfter(looks))
    ours, theirs = (NetworkDirectory(tmp_path / n / "networks").best() for n in ("one", "two"))
    assert ours[1:] == theirs[1:], "the env steps, updates and mean of what was judged before"


def test_a_directory_cached_as_missing_is_looked_up_again(tmp_path, monkeypatch):
    remembered, refresh = [True], LocalStore.refresh

    def refreshed(store):
        refresh(store)
        remembered.clear()

    monkeypatch.setattr(LocalStore, "refresh", refreshed)
    failing(monkeypatch, "open", lambda name: name.startswith("sign-") and remembered)
    run(tmp_path / "run")
    assert not remembered
    LocalStore(tmp_path / "a" / "b").refresh()
    assert (tmp_path / "a" / "b").is_dir(), "trying to create it refreshes NFS"


def test_a_store_that_ranks_do_not_share_is_reported(tmp_path, monkeypatch):
    failing(monkeypatch, "open", lambda name: name.startswith("sign-"))
    with pytest.raises(UserError, match="all ranks share"):
        run(tmp_path / "run")
