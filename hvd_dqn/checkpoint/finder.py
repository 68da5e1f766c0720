"""Finds the newest complete checkpoint, and restores it with errors that a person understands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

from hvd_dqn.checkpoint.manifest import Manifest, list_complete, load_manifest
from hvd_dqn.checkpoint.store import DamageError, FileRecord, Store, read, verify
from hvd_dqn.common.errors import UserError, typed_line
from hvd_dqn.common.state import State, unpack
from hvd_dqn.config import Config, keywords
from hvd_dqn.config.loading import without_removed
from hvd_dqn.distributed import Communicator
from hvd_dqn.distributed.agreement import agreement

_MARGIN = 1 << 30
"""Bytes that a state file may have beyond its tensors of known size: JSON, and tensors that grow.
"""


class FoundCheckpoint(NamedTuple):
    """The checkpoint to resume from, if any, and why newer ones were passed over, one line each."""

    manifest: Manifest | None
    passed_over: list[str]


def find(store: Store, comm: Communicator, *, only: str | None = None) -> FoundCheckpoint:
    """Return the newest checkpoint whose files all have the size and checksum that were written;
    with `only`, consider just the checkpoint of that name. The ranks share the work of reading.

    Collective. Raises `UserError` on all ranks if something cannot be read, since it may be intact.
    """
    names: list[str] = []
    with agreement(comm), report_read_errors(store):
        if comm.is_root:
            names = [only] if only is not None else list_complete(store)[::-1]
    passed_over: list[str] = []
    for name in comm.gather(names)[0]:
        manifest, problem = _inspect(store, comm, name)
        if problem is None:
            return FoundCheckpoint(manifest, passed_over)
        passed_over.append(f"{name}: {problem}")
    return FoundCheckpoint(None, passed_over)


def _inspect(store: Store, comm: Communicator, name: str) -> tuple[Manifest | None, str | None]:
    text, problem = "", None
    with agreement(comm), report_read_errors(store):
        if comm.is_root:
            try:
                text = load_manifest(store, name).to_bytes().decode()
            except DamageError as error:
                problem = str(error)
    text, problem = comm.gather([text, problem])[0]
    if problem is not None:
        return None, problem
    manifest = Manifest.from_bytes(text.encode())
    with agreement(comm), report_read_errors(store):
        try:
            for record in manifest.files()[comm.rank :: comm.world_size]:
                verify(store, record)
        except DamageError as error:
            problem = str(error)
    problems = [text for text in comm.gather(problem) if text is not None]
    return manifest, problems[0] if problems else None


@contextmanager
def report_read_errors(store: Store) -> Iterator[None]:
    """Turn an `OSError` while reading from `store` into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{store} cannot be read ({error})", "try again, or choose a checkpoint with --resume"
        ) from error


def load_state(store: Store, record: FileRecord, *, like: int) -> State:
    """Load a state file. Raises `UserError` if it is damaged, unreadable, or far larger than
    `like`, the bytes of the tensors that it should have.
    """
    try:
        return unpack(read(store, record, limit=2 * like + _MARGIN))
    except (DamageError, OSError, ValueError) as error:
        raise UserError(f"{store}: {record.name} cannot be used: {error}") from error


def restore_or_raise(restore: Callable[[], Any], source: str) -> Any:
    """Call `restore` and return its result. Raises `UserError` if the state from `source` does not
    match the parts of this run, such as a tensor of another shape.
    """
    try:
        return restore()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"{source} does not match this run: {typed_line(error)}") from error


def require_config(
    saved: dict[str, Any], config: dict[str, Any], *, free: tuple[str, ...], allowed: Set[str]
) -> dict[str, list[Any]]:
    """Return the options in which the config of this run differs from the saved one, each with both
    values.

    Options whose names start with one of `free` may differ and are left out. Raises `UserError` if
    any other option differs and is not in `allowed`, or no longer exists.
    """
    saved = Config().flat() | without_removed(saved)  # newer options had their defaults
    _require_existing(saved.keys() - config.keys() - allowed, saved)
    # JSON turns tuples into lists.
    saved, now = (json.loads(json.dumps(values)) for values in (saved, config))
    differing = {
        name: [saved.get(name), now.get(name)]
        for name in sorted(saved.keys() | now.keys())
        if _differ(name, saved.get(name), now.get(name)) and not name.startswith(free)
    }
    refused = [name for name in differing if name not in allowed]
    if refused:
        _require_same_run(saved, now, differing, refused)
        before, after = differing[refused[0]]
        options = [_option(name) for name in refused]
        more = f", and {len(options) - 1} more" if len(options) > 1 else ""
        raise UserError(
            f"the run was trained with {options[0]} = {before!r}, not {after!r}{more}",
            f"pass --resume-changes {','.join(options)} to resume with the new value"
            f"{'s' if more else ''}, or --resume never with a new --run-dir",
        )
    return differing


def _differ(name: str, before: Any, now: Any) -> bool:
    """Whether a setting differs; JSON objects may be written in several ways."""
    if before == now or not (name.endswith("kwargs") and isinstance(before, str)):
        return bool(before != now)
    return bool(keywords.problem_of(before)) or json.loads(before) != json.loads(now)


def _require_existing(unknown: Set[str], saved: dict[str, Any]) -> None:
    """Raise `UserError` if there are `unknown` options, which this version does not have."""
    if unknown:
        settings = ", ".join(f"{_option(name)} = {saved[name]!r}" for name in sorted(unknown))
        raise UserError(
            f"the run was trained with {settings}, which this version of hvd_dqn does not have",
            "resume it with the version that started it (see run.json), or pass --resume-changes "
            f"{','.join(map(_option, sorted(unknown)))} to go on without",
        )


def _require_same_run(
    saved: dict[str, Any],
    now: dict[str, Any],
    differing: dict[str, list[Any]],
    refused: list[str],
) -> None:
    """Raise `UserError` if the saved run is altogether another one: of another environment, or of
    another preset.
    """
    of = [f"{config['env.id']} (preset {config['preset']})" for config in (saved, now)]
    if "env.id" in refused:
        raise UserError(
            f"the run to resume is another one: it trains {of[0]}, not {of[1]}",
            "choose another --run-dir or --resume",
        )
    if saved["preset"] != now["preset"]:
        count = len(differing)
        raise UserError(
            f"the run to resume is another one: it is of preset {saved['preset']}, not "
            f"{now['preset']}, and {count} setting{'s differ' if count > 1 else ' differs'}",
            "choose another --run-dir"
            + (
                f", or pass --resume-changes {','.join(map(_option, refused))}" if count < 4 else ""
            ),
        )


def _option(name: str) -> str:
    return name.replace("_", "-")
