"""Agreement on errors: an error on one rank is raised on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvd_dqn.common.errors import AgreedError, UserError
from hvd_dqn.distributed.communicator import Communicator, Json, hostname


@contextmanager
def agreement(communicator: Communicator) -> Iterator[None]:
    """Run a block that may raise `UserError` on some ranks. Afterwards all ranks raise it, as
    `AgreedError`, or none does. The block must not contain collectives.
    """
    mine: str | None = None
    try:
        yield
    except UserError as error:
        mine = str(error)
    messages = communicator.gather([mine, hostname()])
    failed = [(rank, text, host) for rank, (text, host) in enumerate(messages) if text is not None]
    if not failed:
        return
    rank, text, host = failed[0]
    on_all_alike = len(failed) == len(messages) and all(other == text for _, other, _ in failed)
    raise AgreedError(text if on_all_alike else f"rank {rank} on {host}: {text}")


def require_same(communicator: Communicator, what: str, value: dict[str, Json]) -> None:
    """Raise `AgreedError` on every rank if a rank's `value` differs from that of rank 0, naming the
    first key that differs. Collective.
    """
    values = communicator.gather(value)
    for rank, other in enumerate(values):
        for key in sorted(values[0].keys() | other.keys()):
            root_has, rank_has = values[0].get(key), other.get(key)
            if root_has != rank_has:
                raise AgreedError(
                    f"{what} differs between ranks: {key} is {root_has!r} on rank 0 and "
                    f"{rank_has!r} on rank {rank}; start every rank with the same command"
                )
