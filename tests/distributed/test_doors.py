"""Who may connect to a process's listening sockets."""

import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess

import pytest

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed import doors


@contextlib.contextmanager
def listener(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as open_socket:
        open_socket.bind((address, 0))
        open_socket.listen()
        yield open_socket


def reaches(family, source, target, port):
    """Whether a connection from `source` is accepted."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(0.3)
        client.bind((source, 0))
        try:
            client.connect((target, port))
        except TimeoutError:
            return False
        return True


def test_the_kernel_drops_what_others_send():
    with listener(socket.AF_INET, "0.0.0.0") as door:
        port = door.getsockname()[1]
        sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]

        def admitted():
            return [s for s in sources if reaches(socket.AF_INET, s, "127.0.0.1", port)]

        assert admitted() == sources
        assert doors.admit_only(["127.0.0.2", "fd00::1"], {door.fileno()})
        assert admitted() == ["127.0.0.2"]
        many = [str(ipaddress.ip_address("10.0.0.0") + n) for n in range(300)]
        assert doors.admit_only([*many, "127.0.0.3"], {door.fileno()})
        assert admitted() == ["127.0.0.3"]
        assert not doors.admit_only([*many] * 10, {door.fileno()}), "the kernel takes no such list"


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")  # noqa: PTH110
def test_the_kernel_compares_whole_addresses_of_ipv6():
    with listener(socket.AF_INET6, "::") as door:
        port = door.getsockname()[1]

        def admits(*addresses):
            assert doors.admit_only(list(addresses), {door.fileno()})
            new = reaches(socket.AF_INET6, "::1", "::1", port)
            return new, reaches(socket.AF_INET, "127.0.0.1", "127.0.0.1", port)

        assert admits("127.0.0.1") == (False, True)
        assert admits("fd00::1", "fe80::2", "::1") == (True, False)
        assert admits("::2", "1::1", "0:0:1::1", "::1:0:1") == (False, False)
        many = [f"fd00::{n:x}" for n in range(100)]
        assert admits(*many, "127.0.0.1") == (False, True), "a jump over many instructions"


def test_what_an_admitted_peer_sends_arrives():
    with listener(socket.AF_INET, "0.0.0.0") as door:
        assert doors.admit_only(["127.0.0.1"], {door.fileno()})
        sent = os.urandom(500_000)
        with socket.create_connection(("127.0.0.1", door.getsockname()[1])) as client:
            peer, _ = door.accept()
            with peer:
                peer.settimeout(10)
                client.setblocking(False)
                client.send(sent[:50_000])
                assert peer.recv(50_000, socket.MSG_WAITALL) == sent[:50_000]


def test_only_listening_sockets_are_found():
    before = doors.listening_sockets()
    with (
        listener(socket.AF_INET, "127.0.0.1") as one,
        listener(socket.AF_INET6, "::1") as two,
        socket.create_connection(one.getsockname()),
        socket.socket(),
    ):
        assert doors.listening_sockets() - before == {one.fileno(), two.fileno()}


@pytest.mark.skipif(shutil.which("ip") is None, reason="no ip here")
def test_the_addresses_of_this_host_are_found():
    said = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    told = {line.split()[3].partition("/")[0] for line in said.splitlines()}
    assert set(doors.own_addresses()) == told


def test_an_interface_that_is_not_there_is_refused():
    doors.require_interface("lo")
    with pytest.raises(UserError, match="has no network interface 'ib7': it has lo"):
        doors.require_interface("ib7")
