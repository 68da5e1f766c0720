"""Which package failed to import, and from where it came."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

from hvd_dqn.common.errors import UserError, one_line, typed_line

_PACKAGE = Path(__file__).parents[1]


def explain(error: Exception) -> UserError | None:
    """Return what to say of a package that raised `error` when it was imported; `None` if nothing
    was being imported or the fault is in this package.
    """
    if not _is_of_import(error):
        return None
    files = list(_files_of(error))
    for file in files:
        found = _on_python_path(file)
        if found is not None:
            package, entry = found
            return UserError(
                f"{package} comes from PYTHONPATH ({entry}) and does not load in Python "
                f"{platform.python_version()} ({sys.executable}): {typed_line(error)}",
                "unset PYTHONPATH, or unload the module that sets it",
            )
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "").startswith("hvd_dqn"):
            return None
        found_missing = f"{sys.executable} has no module {error.name!r}"
        return UserError(found_missing, "install hvd_dqn in this environment again")
    if isinstance(error, ImportError) and files and not Path(files[0]).is_relative_to(_PACKAGE):
        linked = "LD_LIBRARY_PATH" if os.environ.get("LD_LIBRARY_PATH") else "its shared libraries"
        return UserError(f"{_name(files[0])} does not load: {one_line(error)}", f"check {linked}")
    return None


def _is_of_import(error: Exception) -> bool:
    """Whether a module was being imported: its frame follows one of a function."""
    if isinstance(error, ImportError | SyntaxError):
        return True
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return "<module>" in dropwhile(lambda name: name == "<module>", names)


def packages_on_python_path() -> list[str]:
    """Return the loaded packages, other than this one, that come from PYTHONPATH."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    found = {_on_python_path(file) for file in files if file}
    return sorted({place[0] for place in found if place is not None})


def _files_of(error: BaseException) -> Iterator[str]:
    """Yield the files of the error and of its causes, innermost first: what could not be imported,
    then those that imported it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.path:
            yield cause.path
        if isinstance(cause, SyntaxError) and cause.filename:
            yield cause.filename
        frames = traceback.extract_tb(cause.__traceback__)
        yield from (frame.filename for frame in reversed(frames) if "<frozen" not in frame.filename)
        cause = cause.__cause__ or cause.__context__


def _on_python_path(file: str) -> tuple[str, str] | None:
    """Return the package of `file` and its entry of PYTHONPATH, if one contains it."""
    path = Path(file)
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        directory = Path(entry).absolute()
        if path.is_relative_to(directory) and not path.is_relative_to(_PACKAGE):
            return path.relative_to(directory).parts[0].partition(".")[0], entry
    return None


def _name(file: str) -> str:
    """Return the name of an installed package by one of its files."""
    parts = Path(file).parts
    installed = [i for i, part in enumerate(parts) if part in ("site-packages", "dist-packages")]
    return parts[installed[-1] + 1] if installed and installed[-1] + 1 < len(parts) else file
