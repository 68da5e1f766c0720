"""Virtual hosts that reach each other by ssh, as horovodrun and mpirun require."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.cluster import hosts as virtual
from tests.cluster.hosts import REPOSITORY, Host, Hosts
from tests.launching import AS_ROOT, clean_environment, wait_until

_CLIENT = """\
Host *
  IdentityFile /etc/ssh/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
_SERVER = """\
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
"""


def why_not() -> str | None:
    """Return why this machine cannot have such hosts, or an empty text."""
    for program in ("ssh", "sshd", "ssh-keygen"):
        if shutil.which(program, path=system_path()) is None:
            return f"{program} is missing (Debian: apt install openssh-client openssh-server)"
    return virtual.why_not()


def system_path() -> str:
    """Find `program`, also in the directories of root's programs."""
    return f"{clean_environment()['PATH']}:/usr/sbin:/sbin"


class SshHosts(Hosts):
    """Hosts with an sshd each, and the key to all others."""

    def __init__(self, directory: Path, number: int, *shared: Path) -> None:
        super().__init__(directory, number, *shared)
        self.environment = clean_environment(PYTHONPATH=str(REPOSITORY)) | AS_ROOT
        self._settings = directory / "ssh"
        self._settings.mkdir()
        (self._settings / "ssh_config").write_text(_CLIENT)
        (self._settings / "sshd_config").write_text(_SERVER)
        key = ["-q", "-t", "ed25519", "-N", "", "-f", str(self._settings / "key")]
        subprocess.run(["ssh-keygen", *key], check=True, env=self.environment)

    def _begin(self, number: int, name: str) -> Host:
        host = super()._begin(number, name)
        host.run("mount", "--bind", str(self._settings), "/etc/ssh")
        host.run("mount", "-t", "tmpfs", "tmpfs", "/run")
        host.run("mkdir", "/run/sshd")
        log = self.directory / f"sshd-{name}.log"
        log.unlink(missing_ok=True)
        sshd = shutil.which("sshd", path=system_path())
        assert sshd is not None
        host.start(sshd, "-D", "-e", env=self.environment, log=log)
        wait_until(lambda: b"listening on" in log.read_bytes(), f"sshd on {name}: {log}", 10)
        return host
