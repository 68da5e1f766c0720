"""Launchers: how ranks are started on hosts, asked to stop, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.communicator import hostname
from hvd_dqn.distributed.launcher import NETWORK_INTERFACE
from hvd_dqn.tools.launching import sessions

_MPIRUN = ("mpirun", "prterun", "orterun", "mpiexec", "mpiexec.hydra")
_SECONDS_TO_REACH_A_HOST = 10
_CALLS_AT_A_TIME = 32
_KEEPALIVE = {"time": "10", "intvl": "5", "probes": "4"}
_HOSTS = ("-H", "-host", "--host", "-hosts")
_HOST_FILES = ("hostfile", "default-hostfile", "machinefile")
_BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID")
_OWN_COUNT = {f"{project}_MCA_ras": "^slurm,tm,pbs,lsf,gridengine" for project in ("PRTE", "OMPI")}
_INTERFACES = (
    "PRTE_MCA_prte_if_include",
    "OMPI_MCA_oob_tcp_if_include",
    "OMPI_MCA_btl_tcp_if_include",
    "HYDRA_IFACE",
)
"""Settings of Open MPI 5, Open MPI 4 and MPICH. Open MPI passes its own on to the ranks."""
_TMPDIR = "tmpdir_base"
_SESSIONS = (f"PRTE_MCA_prte_local_{_TMPDIR}", f"PRTE_MCA_prte_{_TMPDIR}")


class HostsGoneError(UserError):
    """Too few hosts can be reached."""


class Launcher(Protocol):
    """The program that starts a command on every rank."""

    ranks: int

    def command(self) -> list[str]:
        """Return the launcher's words, which precede the command of the ranks."""
        ...

    def ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        """Send SIGUSR1 to every rank."""
        ...

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the remaining processes of a launch."""
        ...

    def root_is_here(self) -> bool:
        """Return whether rank 0, which writes the run directory, runs on this host."""
        ...

    def regroup(self) -> None:
        """Select the hosts that can be reached now, before an attempt, and print those that cannot.
        Raises `HostsGoneError` if too few are left.
        """
        ...


class Host(NamedTuple):
    """A host and its number of slots, one per rank."""

    name: str
    slots: int


def parse_hosts(text: str) -> list[Host]:
    """Parse hosts such as `a:4,b:4`. Raises `UserError` for anything else."""
    hosts = []
    for part in filter(None, text.split(",")):
        name, _, slots = part.partition(":")
        if not name or not (slots or "1").isdecimal() or int(slots or "1") < 1:
            raise UserError(f"-H {text}: {part!r} is not HOST:SLOTS", "write it as -H a:4,b:4")
        hosts.append(Host(name, int(slots or "1")))
    return hosts


class MpirunLauncher:
    """A launcher that takes -np and -H: `program` is horovodrun or mpirun, with its options."""

    def __init__(
        self, program: str, *, ranks: int, hosts: Sequence[Host] = (), min_ranks: int
    ) -> None:
        self.ranks = self._all_ranks = ranks
        self._program = program.split()
        self._hosts = self._all_hosts = tuple(hosts)
        self._min_ranks = min_ranks
        self._asks = bool(hosts) and _goes_by_plain_ssh(self._program)
        slots = sum(host.slots for host in hosts)
        if hosts and ranks > slots:
            raise UserError(f"{ranks} ranks, but -H has {slots} slots", "add slots, or lower --np")

    def command(self) -> list[str]:
        """See `Launcher`."""
        hosts = ",".join(f"{host.name}:{host.slots}" for host in self._hosts)
        return [*self._program, "-np", str(self.ranks), *(["-H", hosts] if hosts else [])]

    def ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        """See `Launcher`. The youngest mpirun of the session forwards the signal to the ranks; a
        horovodrun that we did not build would not.
        """
        found = [pid for pid, name in sessions.members(process.pid) if name in _MPIRUN]
        with suppress(ProcessLookupError):
            os.kill(found[-1] if found else process.pid, signal.SIGUSR1)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """See `Launcher`. On other hosts, the launcher's daemons end the ranks."""
        sessions.end(process.pid)

    def root_is_here(self) -> bool:
        """See `Launcher`."""
        return not self._hosts or _is_this(self._hosts[0].name)

    def regroup(self) -> None:
        """See `Launcher`."""
        if not self._asks:
            return
        with ThreadPoolExecutor(_CALLS_AT_A_TIME) as pool:
            answers = list(pool.map(_is_reachable, [host.name for host in self._all_hosts]))
        found = list(zip(self._all_hosts, answers, strict=True))
        alive = tuple(host for host, answered in found if answered)
        left = min(self._all_ranks, sum(host.slots for host in alive))
        gone = ", ".join(host.name for host, answered in found if not answered)
        if left < self._min_ranks:
            raise HostsGoneError(
                f"{gone} cannot be reached by ssh: {left} of {self._min_ranks} required ranks "
                "(--min-np) are left"
            )
        if gone:
            say(f"{gone} cannot be reached by ssh; continuing on {left} of {self._all_ranks} ranks")
        self._hosts, self.ranks = alive, left


def _is_this(host: str) -> bool:
    return host in ("localhost", "127.0.0.1") or host.partition(".")[0] == hostname()


def _goes_by_plain_ssh(program: Sequence[str]) -> bool:
    """Return whether the launcher reaches its hosts as `ssh HOST` does: not if mpirun uses a batch
    system, or if its options name a port, a key or another agent.
    """
    if Path(program[0]).name != "horovodrun" and {"SLURM_JOB_ID", "PBS_JOBID"} & os.environ.keys():
        return False
    own = {"-p", "--ssh-port", "-i", "--ssh-identity-file"}
    return not any(word in own or "rsh" in word or "plm" in word for word in program[1:])


def _is_reachable(host: str) -> bool:
    """Return whether ssh reaches the host, in one of two tries."""
    wait = f"ConnectTimeout={_SECONDS_TO_REACH_A_HOST}"
    command = ["ssh", "-o", "BatchMode=yes", "-o", wait, host, "true"]
    return _is_this(host) or any(_succeeds(command) for _ in range(2))


def _succeeds(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * _SECONDS_TO_REACH_A_HOST,
            check=False,
            start_new_session=True,  # Ctrl-C must not interrupt it
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def this_program() -> list[str]:
    """Return the command that runs `hvd-dqn` with this Python: `python -m hvd_dqn`, or the script
    if `-m` would import another package from the working directory, such as unbuilt sources.
    """
    script = Path(sys.executable).with_name("hvd-dqn")
    other = Path("hvd_dqn").exists() and not Path("hvd_dqn").samefile(Path(__file__).parents[2])
    return [str(script)] if other and script.exists() else [sys.executable, "-m", "hvd_dqn"]


def environment() -> dict[str, str]:
    """Return the environment of a launch: the programs beside this Python come first on PATH, and
    Open MPI's daemons give up on a silent host after half a minute instead of eight minutes.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    patience = {
        f"{project}_MCA_oob_tcp_keepalive_{name}": value
        for project in ("PRTE", "OMPI")  # Open MPI 5, and 4
        for name, value in _KEEPALIVE.items()
    }
    return patience | _home() | os.environ | {"PATH": path}


def _home() -> dict[str, str]:
    """Return a HOME for a user without a name, of a container: Open MPI 5 requires one."""
    try:
        Path.home()
    except RuntimeError:
        return {"HOME": "/"}
    return {}


def listening_on(interface: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with what makes mpirun, started in it, listen on this network interface
    instead of all. Horovod's horovodrun calls this, too (see `tools/horovod/patches`).
    """
    named = {} if interface == "lo" else dict.fromkeys(_INTERFACES, interface)
    library = next(Path(__file__).parent.glob("narrow.*.so"), None)
    others = environ.get("LD_PRELOAD", "")
    if library is None or str(library) in others.split(":"):
        return {**environ, **named}
    preloaded = f"{library}:{others}" if others else str(library)
    return {**environ, **named, "LD_PRELOAD": preloaded, "HVD_DQN_LISTEN_ON": interface}


def on_this_host(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with what mpirun needs to start all ranks on this host. It listens on the
    loopback interface, and starts as many ranks as are asked for: a batch system may count one slot
    for several cores, as in a shell. Horovod's horovodrun calls this, too.
    """
    return listening_on("lo", {**_OWN_COUNT, **environ})


def stays_here(command: Sequence[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a launcher's command starts ranks on this host only: without hosts, mpirun
    takes those of a batch job, and horovodrun this one.
    """
    program = Path(command[0]).name if command else ""
    if program != "horovodrun" and program not in _MPIRUN:
        return False
    if any(word.lstrip("-").startswith(_HOST_FILES) or word == "-f" for word in command[1:]):
        return False
    named = [hosts for flag, hosts in pairwise(command) if flag in _HOSTS]
    if named:
        return all(_is_this(host.name) for host in parse_hosts(named[-1]))
    one_node = environ.get("SLURM_JOB_NUM_NODES") == "1"
    batch = [name for name in _BATCH_JOBS if environ.get(name)]
    return program == "horovodrun" or not batch or (batch == ["SLURM_JOB_ID"] and one_node)


@contextmanager
def environment_of_a_launch(command: Sequence[str]) -> Iterator[dict[str, str]]:
    """Provide `environment()` with a temporary session directory for Open MPI, unless the user has
    set one in the environment or in `command`. The launcher listens on the loopback interface if
    all ranks are on this host, otherwise on the interface of `NETWORK_INTERFACE`, if it is set.

    Open MPI 5 names its session directory after mpirun's process id. A killed mpirun leaves it
    behind, and a later mpirun with the same id fails with `The PMIx server's listener thread failed
    to start`.
    """
    found = environment()
    interface = found.get(NETWORK_INTERFACE, "")
    if stays_here(command):
        found = on_this_host(found)
    elif interface:
        found = listening_on(interface, found)
    named = any(found.get(name) for name in _SESSIONS) or any(_TMPDIR in word for word in command)
    with ExitStack() as stack:
        if not named:
            with suppress(OSError):  # Open MPI reports this itself
                place = tempfile.TemporaryDirectory(
                    prefix="hvd-dqn-launch-", ignore_cleanup_errors=True
                )
                found[_SESSIONS[0]] = stack.enter_context(place)
        yield found


def say(line: str) -> None:
    """Print a line to standard error, if it can still be written: its terminal may have gone."""
    with suppress(OSError):
        print(f"hvd-dqn launch: {line}", file=sys.stderr, flush=True)
