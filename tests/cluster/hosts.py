"""Several hosts on one machine: each has its own network, host name, processes, /tmp and /dev/shm,
and shares the files. Root makes them from Linux's namespaces; nothing of them outlives `close`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launching import clean_environment, wait_until

WITH_THIS = ("setpriv", "--pdeathsig", "KILL")  # whatever ends this process ends them too
REPOSITORY = Path(__file__).parents[2]
NEEDS = ("unshare", "nsenter", "setpriv", "ip", "mount")


def why_not() -> str | None:
    """The reason why this machine cannot have such hosts."""
    if os.geteuid() != 0:
        return "only root can make virtual hosts"
    for program in NEEDS:
        if shutil.which(program) is None:
            return f"{program} is missing (Debian: apt install iproute2 util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "ip", "link", "add", "hvd-try",
         "type", "veth", "peer", "name", "hvd-yrt"],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


def skip_unless_possible(reason: str | None) -> None:
    """`make cluster-test` fails where others skip."""
    if reason is not None:
        (pytest.fail if os.environ.get("HVD_DQN_TEST_CLUSTER") else pytest.skip)(reason)


@dataclass(frozen=True)
class Host:
    """`pid` is its first process; with `outer`, its parent, all of its processes end."""

    name: str
    address: str
    pid: int
    outer: subprocess.Popen[bytes]

    def command(self, arguments: Sequence[str], cwd: Path | None = None) -> list[str]:
        """What runs `arguments` there."""
        where = [f"--wd={cwd}"] if cwd else []
        spaces = ["--net", "--uts", "--mount", "--pid"]
        return ["nsenter", f"--target={self.pid}", *spaces, *where, *arguments]

    def run(self, *arguments: str, timeout: float = 60, **options: object) -> str:
        """Run a program there to its end: its output. Raises where it fails."""
        done = subprocess.run(
            self.command(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
            **options,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{' '.join(arguments)} on {self.name}: {done.stdout}"
        return str(done.stdout)

    def start(self, *arguments: str, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a service there."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [*WITH_THIS, *self.command(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(env),
                start_new_session=True,
            )

    def is_up(self) -> bool:
        return self.outer.poll() is None

    def fail(self) -> None:
        """As if its power were cut."""
        self.outer.kill()
        self.outer.wait()


class Hosts:
    """`number` hosts on a bridge of their own; this machine has its first address.

    Where `directory`, what is `shared` besides, this repository or its Python is in /tmp, the hosts
    share that part of it.
    """

    def __init__(self, directory: Path, number: int, *shared: Path) -> None:
        self.directory = directory
        self._shared = {directory, *shared, REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}
        self._bridge = f"hvd{os.getpid()}"
        self._subnet = f"10.{77 + os.getpid() // 250 % 100}.{os.getpid() % 250}"
        self.address = f"{self._subnet}.1"
        self._names = [f"node{n}" for n in range(1, number + 1)]
        self.hosts: list[Host] = []
        directory.mkdir(parents=True, exist_ok=True)
        lines = [f"{self._subnet}.{10 + n} {name}" for n, name in enumerate(self._names, 1)]
        lines = ["127.0.0.1 localhost", f"{self.address} {os.uname().nodename} login", *lines]
        self._table = directory / "hosts"
        self._table.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Hosts:
        remove_bridges_of_the_dead()
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number, name in enumerate(self._names, 1):
                self.hosts.append(self._begin(number, name))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for host in self.hosts:
            host.fail()
        _remove(self._bridge)

    def restart(self, host: Host) -> Host:
        """Power on again, with the same name and address."""
        place = self.hosts.index(host)
        self.hosts[place] = self._begin(place + 1, host.name)
        return self.hosts[place]

    def set_link(self, host: Host, state: str) -> None:
        """Put its network `up` or `down`."""
        host.run("ip", "link", "set", "eth0", state)

    def _begin(self, number: int, name: str) -> Host:
        own = self.directory / f"own-{name}"
        shutil.rmtree(own, ignore_errors=True)
        (own / "tmp").mkdir(parents=True)
        shared = "".join(
            f"mkdir -p {own}{path}; mount --rbind {path} {own}{path}; "
            for path in sorted(self._shared)
            if path.is_relative_to("/tmp")
        )
        setup = f"""
            set -e
            hostname {name}
            {shared}
            mount --rbind {own}/tmp /tmp
            mount --bind {self._table} /etc/hosts
            mount -t tmpfs tmpfs /dev/shm
            ip link set lo up
            echo ready > {own}/ready
            while :; do sleep 1000 & wait $!; done  # as init it buries the orphans
        """
        spaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        outer = subprocess.Popen(
            [*WITH_THIS, "unshare", *spaces, "--propagation", "private", "bash", "-c", setup],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=clean_environment(),
        )
        wait_until(lambda: (own / "ready").exists() or outer.poll() is not None, f"{name} to begin")
        assert outer.poll() is None, f"{name} did not begin"
        host = Host(name, f"{self._subnet}.{10 + number}", _only_child(outer.pid), outer)
        outside = f"{self._bridge}n{number}"
        _remove(outside)  # of one that has failed
        # One that comes back has its card's address, which the others know.
        inside = ["name", "eth0", "address", f"02:00:00:00:00:{number:02x}", "netns", str(host.pid)]
        _ip("link", "add", outside, "type", "veth", "peer", *inside)
        _ip("link", "set", outside, "master", self._bridge)
        _ip("link", "set", outside, "up")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        return host


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def _remove(link: str) -> None:
    subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)


def remove_bridges_of_the_dead() -> None:
    """A process that is killed leaves its bridge; its hosts end with it."""
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    for number in re.findall(r"^\d+: hvd(\d+):", listed.stdout, re.MULTILINE):
        if not Path(f"/proc/{number}").exists():
            _ip("link", "del", f"hvd{number}")


def _only_child(parent: int) -> int:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            return int(stat.parent.name)
    raise AssertionError(f"process {parent} has no child")
