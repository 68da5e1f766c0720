"""Which rank watches which, and which one reports.

For real launchers see tests/distributed/test_faults.py.
"""

from __future__ import annotations

import io
import time
import types

import pytest

from hvd_dqn.common.structs import Progress
from hvd_dqn.distributed.communicator import LocalCommunicator
from hvd_dqn.run import watchdog
from hvd_dqn.run.directory import RunDirectory
from hvd_dqn.run.watchdog import Watchdog

LIMIT = 60.0


class Rank(Watchdog):
    """One of several, in this process; what it would end the job with, and what it reads."""

    def __init__(self, rank: int, ranks: int, run_dir: RunDirectory) -> None:
        comm = LocalCommunicator()
        comm.rank, comm.world_size = rank, ranks
        super().__init__(comm, Progress(), run_dir, limit=LIMIT)
        self.said: list[str] = []
        self.reads = 0

    def _end(self, message):
        self.said.append(message)

    def _read(self, rank):
        self.reads += 1
        return super()._read(rank)


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now.seconds)
    return now


def watched(tmp_path, clock, ranks, silent, *, minutes=2, working=(), unshared=()):
    """All ranks, of which some have stopped as a whole while the others wait, after a while."""
    run_dir = RunDirectory(tmp_path)
    run_dir.heartbeats.mkdir(parents=True)
    everyone = [Rank(rank, ranks, run_dir) for rank in range(ranks)]
    for rank in everyone:
        rank.beat(waiting=rank._comm.rank not in working)
        if rank._comm.rank not in unshared:
            rank._write()
    for _ in range(12 * minutes):
        clock.seconds += 5.0
        for number, rank in enumerate(everyone):
            if number in silent or number in unshared:
                continue
            if number in working:
                rank.touch()
            rank._write()
            if rank._waiting:
                rank._watch_others(clock.seconds - rank._moved)
    return everyone


@pytest.mark.parametrize(
    ("ranks", "silent", "speaker"),
    [(2, {1}, 0), (2, {0}, 1), (5, {3}, 2), (5, {1, 2, 3}, 0), (5, {0, 4}, 3), (9, {8, 0, 1}, 7)],
)
def test_the_rank_before_the_silent_ones_names_the_first(tmp_path, clock, ranks, silent, speaker):
    everyone = watched(tmp_path, clock, ranks, silent)
    assert {n for n, rank in enumerate(everyone) if rank.said} == {speaker}
    said = everyone[speaker].said[0]
    assert said.startswith(f"rank {(speaker + 1) % ranks} on ")
    assert "no heartbeat for" in said
    assert f"; rank {speaker} on " in said


def test_a_rank_that_works_is_waited_for_and_each_reads_one_heartbeat_at_a_time(tmp_path, clock):
    everyone = watched(tmp_path, clock, 64, set(), working={5})
    assert not any(rank.said for rank in everyone)
    assert max(rank.reads for rank in everyone[1:]) <= 24
    assert everyone[0].reads <= 24 + 64 * 24


def test_where_all_wait_the_root_says_so_alone(tmp_path, clock):
    everyone = watched(tmp_path, clock, 4, set())
    assert [bool(rank.said) for rank in everyone] == [True, False, False, False]
    assert "all ranks have waited for each other" in everyone[0].said[0]


def test_ranks_of_another_host_are_passed_over_and_given_time(tmp_path, clock):
    everyone = watched(tmp_path, clock, 6, {1}, unshared={2, 3, 4, 5})
    assert [bool(rank.said) for rank in everyone] == [True, *[False] * 5]
    assert everyone[0].said[0].startswith("rank 1 on ")


def test_a_host_of_which_nothing_is_known_is_not_waited_for_for_ever(tmp_path, clock):
    everyone = watched(tmp_path, clock, 4, set(), unshared={2, 3}, minutes=9)
    assert not any(rank.said for rank in everyone)
    everyone = watched(tmp_path / "longer", clock, 4, set(), unshared={2, 3}, minutes=11)
    assert [bool(rank.said) for rank in everyone] == [False, True, False, False]
    assert "the state of rank 2 is unknown" in everyone[1].said[0]


def test_what_a_library_says_of_a_broken_sum_is_told(tmp_path):
    run_dir = RunDirectory(tmp_path)
    run_dir.heartbeats.mkdir(parents=True)
    ranks = [Rank(number, 2, run_dir) for number in range(2)]
    ranks[0]._write()
    assert "a rank on another host, or that host, is gone" in ranks[0].explain(
        "unhandled\nsystem error"
    )
    ranks[1]._write()
    told = ranks[0].explain("unhandled\nsystem error")
    assert told.endswith(": a sum over ranks failed: unhandled system error")
    assert ranks[1].explain("unhandled") is None


@pytest.mark.parametrize("stderr", [None, types.SimpleNamespace(write=len), io.StringIO()])
def test_it_watches_where_something_has_replaced_standard_error(
    tmp_path, monkeypatch, capfd, stderr
):
    alone = Watchdog(LocalCommunicator(), Progress(), RunDirectory(tmp_path), limit=LIMIT)
    monkeypatch.setattr(watchdog.sys, "stderr", stderr)
    alone.start()
    try:
        assert alone._write_stacks("hung") == "stacks above"
        time.sleep(0.1)
        assert alone._thread.is_alive()
    finally:
        alone.stop()
    assert "most recent call first" in capfd.readouterr().err
