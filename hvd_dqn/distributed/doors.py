"""Who may connect to the ranks of several hosts, and over which network interface.

MPI's TCP transports listen on every address of a host. Open MPI answers strangers one at a time and
waits up to two seconds for each, in the thread that sums, so that a port scanner could hold up a
run. Therefore the kernel drops the connection requests of all hosts but the job's.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from hvd_dqn.common.errors import UserError
from hvd_dqn.distributed.communicator import hostname

_NETWORK = Path("/proc/net")
_SO_ATTACH_FILTER = 26
# Classic BPF (linux/filter.h): offsets count from the TCP header, or from the IP header with NET.
_NET = 0xFFF00000
_LOAD_WORD, _LOAD_BYTE, _SHIFT_RIGHT = 0x20, 0x30, 0x74
_IF_EQUAL, _IF_BITS, _JUMP, _RETURN = 0x15, 0x45, 0x05, 0x06
_FLAGS, _SYN, _ACCEPT, _DROP = 13, 2, 0xFFFFFFFF, 0
_LIMIT = 4096

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def own_addresses() -> list[str]:
    """Return all addresses of this host's network interfaces; an empty list if they are hidden."""
    found = set()
    try:
        lines = (_NETWORK / "fib_trie").read_text().splitlines()
    except OSError:
        return []
    for line, below in pairwise(lines):
        if below.strip() == "/32 host LOCAL":
            found.add(line.split()[-1])
    with contextlib.suppress(OSError):  # a kernel without IPv6
        for line in (_NETWORK / "if_inet6").read_text().splitlines():
            found.add(str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))))
    return sorted(found)


def require_interface(name: str) -> None:
    """Raise `UserError` if this host has no network interface of this name."""
    names = [known for _, known in socket.if_nameindex()]
    if name not in names:
        raise UserError(
            f"{hostname()} has no network interface {name!r}", f"it has {', '.join(names)}"
        )


def listening_sockets() -> set[int]:
    """Return the file descriptors of this process that listen for TCP connections; none without
    /proc.
    """
    try:
        numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    except OSError:
        return set()
    return {number for number in numbers if _listens(number)}


def _listens(fd: int) -> bool:
    try:
        with _opened(fd) as found:
            inet = found.family in (socket.AF_INET, socket.AF_INET6)
            return inet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(fd)) as found:
        yield found


def admit_only(addresses: list[str], listening: set[int]) -> bool:
    """Let the kernel drop every request for a connection to these sockets, except from `addresses`.
    Return whether it does; it does not if there are thousands of addresses.
    """
    program = connection_filter([ipaddress.ip_address(text) for text in addresses])
    if len(program) > _LIMIT:
        return False
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    option = struct.pack("HL", len(program), ctypes.addressof(memory))
    try:
        for fd in listening:
            with _opened(fd) as found:
                found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    except OSError:  # more than net.core.optmem_max allows
        return False
    return True


def connection_filter(addresses: list[Address]) -> list[Instruction]:
    """Return a program that accepts a TCP segment unless it requests a connection (SYN) and is from
    none of `addresses`.
    """
    old = [int(a) for a in addresses if a.version == 4]
    new = [a.packed for a in addresses if a.version == 6]
    from_old: list[Instruction] = [(_LOAD_WORD, 0, 0, _NET + 12)]
    for number in old:
        from_old += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ACCEPT)]
    from_old.append((_RETURN, 0, 0, _DROP))
    from_new: list[Instruction] = []
    for packed in new:
        words = struct.unpack(">4I", packed)
        for place, word in enumerate(words):
            others = 2 * (3 - place) + 1  # instructions up to the next address
            from_new += [(_LOAD_WORD, 0, 0, _NET + 8 + 4 * place), (_IF_EQUAL, 0, others, word)]
        from_new.append((_RETURN, 0, 0, _ACCEPT))
    from_new.append((_RETURN, 0, 0, _DROP))
    return [
        (_LOAD_BYTE, 0, 0, _FLAGS),
        (_IF_BITS, 1, 0, _SYN),
        (_RETURN, 0, 0, _ACCEPT),
        (_LOAD_BYTE, 0, 0, _NET),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_IF_EQUAL, 1, 0, 6),
        (_JUMP, 0, 0, len(from_new)),
        *from_new,
        *from_old,
    ]
