"""A communicator that reports waiting to a watchdog: a rank that hangs in a collective waits for
another rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hvd_dqn.distributed.communicator import Communicator, Json

if TYPE_CHECKING:
    from torch import Tensor

    from hvd_dqn.distributed.one_sided import OneSidedMemory


class Watch(Protocol):
    """Receives a rank's progress."""

    def beat(self, *, waiting: bool = False) -> None:
        """Report progress; what follows is the rank's own work or, if `waiting`, a collective."""
        ...


class WatchedCommunicator:
    """Wraps a communicator and reports to `watch` when it waits."""

    def __init__(self, inner: Communicator, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch
        self.backend = inner.backend
        self.rank = inner.rank
        self.world_size = inner.world_size
        self.local_rank = inner.local_rank
        self.route = inner.route
        self.has_one_sided_memory = getattr(inner, "has_one_sided_memory", False)

    @property
    def is_root(self) -> bool:
        """See `Communicator`."""
        return self._inner.is_root

    def start_sum(self, tensor: Tensor, name: str, *, overlap: bool = False) -> None:
        """See `Communicator`. May wait for an abandoned sum, or until the ranks share memory."""
        with self._waiting():
            self._inner.start_sum(tensor, name, overlap=overlap)

    def finish_sum(self) -> None:
        """See `Communicator`."""
        with self._waiting():
            self._inner.finish_sum()

    def broadcast(self, tensor: Tensor, name: str) -> None:
        """See `Communicator`."""
        with self._waiting():
            self._inner.broadcast(tensor, name)

    def gather(self, value: Json) -> list[Json]:
        """See `Communicator`."""
        with self._waiting():
            return self._inner.gather(value)

    def one_sided_memory(
        self, sizes: Sequence[int], on_wait: Callable[[bool], None] = lambda waiting: None
    ) -> OneSidedMemory:
        """See `Communicator`. Waiting for another rank's lock is waiting for that rank."""

        def report(waiting: bool) -> None:
            self._watch.beat(waiting=waiting)
            on_wait(waiting)

        with self._waiting():
            return self._inner.one_sided_memory(sizes, report)

    def abort(self, exit_code: int) -> None:
        """See `Communicator`."""
        self._inner.abort(exit_code)

    def close(self) -> None:
        """See `Communicator`."""
        self._inner.close()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._watch.beat(waiting=True)
        yield
        self._watch.beat()
