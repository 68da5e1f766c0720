"""Finding the newest checkpoint that is whole, and putting it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

from hvd_dqn.checkpoint.manifest import Manifest, list_complete, load_manifest
from hvd_dqn.checkpoint.store import DamageError, FileRecord, Store, read, verify
from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.common.state import State, unpack
from hvd_dqn.config import Config
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement

_MARGIN = 1 << 30
"""What the rest of a state, and tensors that grow, may add to its known size."""


class Found(NamedTuple):
    """The checkpoint to go on from, if there is one, and why newer ones were passed over."""

    manifest: Manifest | None
    passed_over: list[str]


def find(store: Store, comm: Communicator, *, only: str | None = None) -> Found:
    """The newest checkpoint of which every file is what was written, or the one that is named
    `only`. Every rank reads some of the files. Collective; `UserError` on all ranks where something
    cannot be read: it may be good.
    """
    names: list[str] = []
    with agreement(comm), readable(store):
        if comm.is_root:
            names = [only] if only is not None else list_complete(store)[::-1]
    passed_over: list[str] = []
    for name in comm.gather(names)[0]:
        manifest, problem = _inspect(store, comm, name)
        if problem is None:
            return Found(manifest, passed_over)
        passed_over.append(f"{name}: {problem}")
    return Found(None, passed_over)


def _inspect(store: Store, comm: Communicator, name: str) -> tuple[Manifest | None, str | None]:
    text, problem = "", None
    with agreement(comm), readable(store):
        if comm.is_root:
            try:
                text = load_manifest(store, name).to_bytes().decode()
            except DamageError as error:
                problem = str(error)
    text, problem = comm.gather([text, problem])[0]
    if problem is not None:
        return None, problem
    manifest = Manifest.from_bytes(text.encode())
    with agreement(comm), readable(store):
        try:
            for record in manifest.files()[comm.rank :: comm.world_size]:
                verify(store, record)
        except DamageError as error:
            problem = str(error)
    problems = [text for text in comm.gather(problem) if text is not None]
    return manifest, problems[0] if problems else None


@contextmanager
def readable(store: Store) -> Iterator[None]:
    """Around reading from a store: what fails is a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{store} cannot be read ({error})", "try again, or name a checkpoint with --resume"
        ) from error


def load_state(store: Store, record: FileRecord, *, like: int) -> State:
    """A saved state whose tensors have about `like` bytes. `UserError` where it is not one."""
    try:
        return unpack(read(store, record, limit=2 * like + _MARGIN))
    except (DamageError, OSError, ValueError) as error:
        raise UserError(f"{store}: {record.name} cannot be used: {error}") from error


def fitting(put_back: Callable[[], Any], where: str) -> Any:
    """What `put_back` returns. `UserError` where a saved state is of another form than the run's
    parts.
    """
    try:
        return put_back()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"{where} does not fit this run: {typed_line(error)}") from error


def require_config(
    saved: dict[str, Any], config: dict[str, Any], *, free: tuple[str, ...], allowed: Set[str]
) -> dict[str, list[Any]]:
    """Fields in which this run's config differs from the one that was saved, with both values.

    `UserError` where one of them neither begins with a name that is `free` to differ nor is
    `allowed` by the user.
    """
    saved = Config().flat() | saved  # a setting of later versions was as it is by default
    saved, now = (json.loads(json.dumps(values)) for values in (saved, config))  # tuples as lists
    differing = {
        name: [saved.get(name), now.get(name)]
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name) and not name.startswith(free)
    }
    refused = [name for name in differing if name not in allowed]
    if refused:
        name = refused[0]
        before, after = differing[name]
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise UserError(
            f"the run to go on with has {name} = {before!r}, and this one {after!r}{more}",
            f"say --resume-changes {','.join(refused)} to go on with the new value"
            f"{'s' if more else ''}, or --resume never in a new --run-dir",
        )
    return differing
