"""A real Slurm on virtual hosts: munged and slurmctld here, a slurmd on each host.

    python -m tests.cluster.slurm --nodes 2 DIRECTORY

starts one, prints the environment with which sbatch and its kin find it, and ends it at Ctrl-C.
Needs root and Debian's slurm-wlm, libpmix-dev, munge, openssh-server and iproute2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster import ssh
from tests.cluster.hosts import WITH_THIS, Host
from tests.cluster.ssh import SshHosts, system_path
from tests.launching import clean_environment, wait_until

CPUS = 4


def why_not() -> str | None:
    """Return why this machine cannot run a Slurm, or an empty text."""
    for program in ("slurmctld", "slurmd", "munged", "sbatch"):
        if shutil.which(program, path=system_path()) is None:
            return f"{program} is missing (Debian: apt install slurm-wlm munge)"
    load = "import ctypes; ctypes.CDLL('libpmix.so')"  # as Slurm's plugin does
    if subprocess.run([sys.executable, "-c", load], capture_output=True, check=False).returncode:
        return "libpmix.so is missing, which srun starts MPI with (Debian: apt install libpmix-dev)"
    return ssh.why_not()


class Slurm:
    """A cluster of `nodes`; partitions `main`, and `high`, which takes its nodes from `main`."""

    def __init__(self, directory: Path, nodes: int = 2, *shared: Path) -> None:
        self.directory = directory
        self.hosts = SshHosts(directory, nodes, *shared)
        self.environment = clean_environment() | {
            "PATH": system_path(),
            "SLURM_CONF": str(directory / "slurm.conf"),
        }
        self._port = 20_000 + 2 * (os.getpid() % 5000)
        self._services: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Slurm:
        try:
            self.hosts.__enter__()
            self._configure()
            self._start_munge()
            self._start("slurmctld", "-D", "-i")
            for host in self.hosts.hosts:
                self.start_node(host)
            wait_until(self.all_idle, "the nodes to be idle", 60)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for service in reversed(self._services):
            service.terminate()
        for service in self._services:
            try:
                service.wait(10)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()
        self.hosts.close()

    def start_node(self, host: Host) -> None:
        """Start the slurmd of a host."""
        log = self.directory / f"slurmd-{host.name}.out"
        host.start("slurmd", "-D", "-N", host.name, env=self.environment, log=log)

    def run(self, *arguments: str, timeout: float = 60, check: bool = True) -> str:
        """Run sbatch, squeue and the like from the login host: their output."""
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED …"""
        said = self.run("scontrol", "show", "job", job, check=False)
        return said.partition("JobState=")[2].partition(" ")[0] or said

    def wait(self, job: str, *states: str, seconds: float = 240) -> str:
        """Until the job is in one of these states, by default one that it does not leave by itself,
        and stays there: on its way back to the queue a job goes through some of those.
        """
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
        wanted = set(states) or ends

        def is_there() -> bool:
            if self.state(job) not in wanted:
                return False
            time.sleep(2)
            return self.state(job) in wanted

        wait_until(is_there, f"job {job} to be {wanted}", seconds)
        return self.state(job)

    def all_idle(self) -> bool:
        said = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False)
        return said.split() == ["idle"] * len(self.hosts.hosts)

    def _configure(self) -> None:
        self.directory.chmod(0o755)
        for name in ("state", *(f"spool/{host.name}" for host in self.hosts.hosts)):
            (self.directory / name).mkdir(parents=True)
        nodes = "\n".join(
            f"NodeName={host.name} NodeAddr={host.address} CPUs={CPUS} RealMemory=4000"
            for host in self.hosts.hosts
        )
        (self.directory / "slurm.conf").write_text(
            f"""
ClusterName=virtual
SlurmctldHost={os.uname().nodename}({self.hosts.address})
AuthType=auth/munge
AuthInfo=socket={self.directory}/munge.socket
SlurmUser=root
SlurmctldPort={self._port}
SlurmdPort={self._port + 1}
SlurmctldPidFile={self.directory}/slurmctld.pid
SlurmdPidFile={self.directory}/slurmd-%n.pid
StateSaveLocation={self.directory}/state
SlurmdSpoolDir={self.directory}/spool/%n
SlurmctldLogFile={self.directory}/slurmctld.log
SlurmdLogFile={self.directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=pmix
ReturnToService=2
SlurmdTimeout=10
SlurmdParameters=config_overrides
KillWait=10
InactiveLimit=0
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,requeue_delay=1
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
        )

    def _start_munge(self) -> None:
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        place = self.directory
        self._start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={place}/munge.socket",
            f"--pid-file={place}/munge.pid",
            f"--log-file={place}/munge.log",
            f"--seed-file={place}/munge.seed",
        )
        wait_until((place / "munge.socket").exists, "munged")

    def _start(self, *command: str) -> None:
        with (self.directory / f"{command[0]}.out").open("ab") as output:
            service = subprocess.Popen(
                [*WITH_THIS, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,
            )
        self._services.append(service)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Slurm(arguments.directory.resolve(), arguments.nodes) as slurm:
        print(f"export SLURM_CONF={slurm.environment['SLURM_CONF']}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
