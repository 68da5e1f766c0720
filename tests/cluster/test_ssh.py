"""Two hosts that reach each other by ssh: horovodrun and mpirun over both, and what becomes of a
job whose network or host is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.checkpoints import assert_equal, everything
from tests.cluster.hosts import skip_unless_possible
from tests.cluster.ssh import SshHosts, why_not
from tests.distributed.workers import small_config
from tests.launching import Job, wait_until

pytestmark = pytest.mark.cluster
BOTH = ("-np", "2", "-H", "node1:1,node2:1")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    skip_unless_possible(why_not())
    base = tmp_path_factory.getbasetemp()
    with SshHosts(tmp_path_factory.mktemp("hosts"), 2, base) as cluster:
        yield cluster


@pytest.fixture
def run_dir(tmp_path):
    """Where the two hosts see the same files."""
    return tmp_path / "run"


@contextlib.contextmanager
def on_the_first(hosts, *words):
    """A program there; nothing of it outlives the block."""
    job = Job(hosts.hosts[0].command(words), None, hosts.environment)
    try:
        yield job
    finally:
        job.kill()
        job.process.communicate()


def train_words(run_dir, env_steps=1200, **changes):
    config = small_config().changed(
        {"total_env_steps": env_steps, "checkpoint.period_env_steps": 300} | changes
    )
    path = run_dir.with_name("config.json")
    path.write_text(config.to_json())
    return ("train", "--config", str(path), "--run-dir", str(run_dir))


def has_a_checkpoint(run_dir):
    return lambda: list(run_dir.glob("checkpoints/step-*/manifest.json"))


def processes_of(run_dir):
    """Wherever they run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if str(run_dir).encode() in path.read_bytes() else []
    return found


@pytest.mark.parametrize(
    "launcher", ["horovodrun", pytest.param("mpirun -x PATH", marks=pytest.mark.long)]
)
def test_two_hosts_train_what_one_does(hosts, run_dir, tmp_path, launcher):
    words = train_words(run_dir)
    with on_the_first(hosts, *launcher.split(), *BOTH, "hvd-dqn", *words) as job:
        done = job.wait()
    assert done.code == 0, done.output
    assert json.loads((run_dir / "run.json").read_text())["hosts"] == ["node1", "node2"]
    one = (*("-np", "2", "-H", "node1:2"), "hvd-dqn", *words[:-1], str(tmp_path / "alone"))
    with on_the_first(hosts, *launcher.split(), *one) as job:
        assert job.wait().code == 0
    assert_equal(everything(run_dir / "checkpoints"), everything(tmp_path / "alone/checkpoints"))


@pytest.mark.long
def test_a_network_that_goes_down_is_named_and_the_run_goes_on_when_it_is_back(hosts, run_dir):
    _, second = hosts.hosts
    words = train_words(run_dir, 9600, **{"distributed.hang_seconds": 8.0})
    with on_the_first(hosts, "hvd-dqn", "launch", *BOTH, "--", *words) as job:
        wait_until(has_a_checkpoint(run_dir), "a checkpoint")
        hosts.set_link(second, "down")
        done = job.wait(90)
    try:
        assert done.code == 1, done.output
        assert re.search(
            r"rank 0 on node1, at update [\d,]+: all ranks have waited for each other for \d+ s: "
            r"the network between them has failed",
            done.output,
        ), done.output
        assert done.lines("attempt 1 on 2 ranks failed with exit code 1"), done.output
        told = (
            "giving up: node2 cannot be reached by ssh: 1 of 2 required ranks (--min-np) are left;"
        )
        assert done.lines(told), done.output
        wait_until(lambda: not processes_of(run_dir), "its processes to end", 60)
    finally:
        hosts.set_link(second, "up")
    with on_the_first(hosts, "hvd-dqn", "launch", *BOTH, "--", *words) as job:
        done = job.wait()
    assert done.code == 0, done.output
    assert "resuming from" in done.output


def test_a_host_that_is_gone_is_dropped(hosts, run_dir):
    """mpirun exits with 0, 1 or 255, sometimes before a rank can say what it lost."""
    _, second = hosts.hosts
    words = train_words(run_dir, 9600)
    with on_the_first(hosts, "hvd-dqn", "launch", *BOTH, "--min-np", "1", "--", *words) as job:
        wait_until(has_a_checkpoint(run_dir), "a checkpoint")
        second.fail()
        try:
            done = job.wait()
        finally:
            hosts.restart(second)
    assert done.code == 0, done.output
    (line,) = done.lines("attempt 1 on 2 ranks failed with")
    causes = (
        "lost contact with",
        "a rank on another host is gone",
        "horovodrun exited with code",
    )
    assert any(cause in line for cause in causes), line
    assert "node2 cannot be reached by ssh; continuing on 1 of 2 ranks" in done.output
    (resumed,) = json.loads((run_dir / "run.json").read_text())["resumed"]
    assert resumed["world_size"] == 1


@pytest.mark.long
def test_a_stop_reaches_the_ranks_of_all_hosts(hosts, run_dir):
    words = train_words(run_dir, 100_000)
    with on_the_first(hosts, "hvd-dqn", "launch", *BOTH, "--", *words) as job:
        wait_until(has_a_checkpoint(run_dir), "a checkpoint")
        os.kill(min(pid for pid in job.members() if is_launch(pid)), signal.SIGTERM)
        done = job.wait(30)
    assert done.code == 75, done.output
    assert processes_of(run_dir) == []


def is_launch(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2:3] == [b"launch"]


@pytest.mark.long
def test_hosts_that_share_no_directory(hosts, run_dir):
    """Each has a /tmp of its own."""
    words = train_words(run_dir)
    kept = run_dir.with_name("kept")
    private = f"/tmp/{run_dir.parent.name}"
    launch = ("horovodrun", *BOTH, "hvd-dqn", *words[:-1], private)
    with on_the_first(hosts, *launch) as job:
        done = job.wait()
    assert done.code == 2, done.output
    (line,) = done.lines("hvd-dqn: ")
    assert "on node2 is not the root's: checkpoints need a place that all ranks share" in line
    with on_the_first(hosts, *launch, "--checkpoint.directory", str(kept)) as job:
        done = job.wait()
    assert done.code == 0, done.output
    with on_the_first(hosts, "horovodrun", *BOTH, "hvd-dqn", *words) as job:
        assert job.wait().code == 0
    assert_equal(everything(kept), everything(run_dir / "checkpoints"))


def test_strangers_do_not_hold_up_a_run(hosts, run_dir):
    """They send noise to every port that both hosts have open to them: a port scan."""
    words = train_words(run_dir, 400_000)
    with on_the_first(hosts, "hvd-dqn", "launch", *BOTH, "--", *words) as job:
        wait_until(has_a_checkpoint(run_dir), "a checkpoint")
        ports = [(host.address, port) for host in hosts.hosts for port in open_ports(host)]
        assert len(ports) >= 4, "of mpirun, its daemon and both ranks"
        with noise(ports, connections=200) as answered:
            before = len(records_of(run_dir))
            wait_until(
                lambda: len(records_of(run_dir)) >= before + 5, "the run", SECONDS_OF_A_STALL
            )
        assert job.process.poll() is None
        assert len(answered) < len(ports), "the ranks do not answer them"


SECONDS_OF_A_STALL = 10


def records_of(run_dir):
    return (run_dir / "metrics.jsonl").read_bytes().splitlines()


def open_ports(host):
    """The ports that listen beyond loopback, without sshd's."""
    addresses = [line.split()[3].rpartition(":") for line in host.run("ss", "-Hltn").splitlines()]
    found = {
        int(port) for address, _, port in addresses if not address.startswith(("127.", "[::1"))
    }
    return sorted(found - {22})


@contextlib.contextmanager
def noise(ports, *, connections):
    """Connect many times to each port and send random bytes. Yields the ports that answered."""
    answered = set()
    with contextlib.ExitStack() as stack:
        for place in ports:
            for number in range(connections):
                client = stack.enter_context(socket.socket())
                client.settimeout(1 if number == 0 else 0.01)
                try:
                    client.connect(place)
                    client.send(os.urandom(7))
                    answered.add(place)
                except TimeoutError:
                    if number == 0:
                        break
                except OSError:
                    continue
        yield answered
