"""Settings that name a part of the package, or a function of the user's as `module:function`."""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from hvd_dqn.common.errors import ConfigError, UserError, one_line, typed_line

T = TypeVar("T")


def lookup(setting: str, name: str, known: Mapping[str, Callable[..., T]]) -> Callable[..., T]:
    """Return the entry of `known` called `name`, or import the function that `module:function`
    names. Whatever the user's function raises becomes a `ConfigError`.

    Raises `ConfigError`, in one line, if there is no such entry or no such function.
    """
    if name in known:
        return known[name]
    if not all(name.partition(":")):
        raise ConfigError(
            f"{setting} = {name!r}: must be one of {', '.join(known)}, or module:function"
        )
    function: Callable[..., T] = import_attribute(f"{setting} = {name!r}", name)
    if not callable(function):
        raise ConfigError(f"{setting} = {name!r}: is not a function")
    return _with_one_line_errors(f"{setting} = {name!r}", function)


def import_attribute(found: str, path: str) -> Any:
    """Return the attribute that `path`, `module:attribute`, names. Error messages start with
    `found`.

    Raises `ConfigError`, in one line, if it cannot be imported.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_of_user(found, module), attribute)
    except ModuleNotFoundError as error:
        missing = missing_module(error)
        reason = one_line(error) if missing is None else f"there is no module {missing!r}"
        raise ConfigError(f"{found}: {reason}") from error
    except ConfigError:
        raise
    except AttributeError as error:
        raise ConfigError(f"{found}: {one_line(error)}") from error
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"{found}: cannot be imported ({typed_line(error)})") from error


def import_of_user(found: str, module: str) -> ModuleType:
    """Import a user's module. Raises `ConfigError`, which starts with `found`, if it exits, and
    whatever else the module raises.
    """
    try:
        with _argparse_raises():
            return importlib.import_module(module)
    except SystemExit as error:
        raise ConfigError(
            f"{found}: the module {module!r} calls sys.exit when it is imported "
            f"({one_line(str(error.code))}); move what parses arguments or runs below "
            'if __name__ == "__main__":'
        ) from error


def missing_module(error: BaseException | None) -> str | None:
    """Return the name of the module that was not found. Gymnasium raises a second
    `ModuleNotFoundError`, without a name, from the first.
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _argparse_raises() -> Iterator[None]:
    """A module that parses arguments reads ours: say so in one line, without its usage text."""

    def raise_reason(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise SystemExit(f"argparse: {message}")

    before = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = raise_reason  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = before  # type: ignore[method-assign]


def _with_one_line_errors(found: str, function: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise ConfigError(f"{found}: raises {typed_line(error)}") from error

    return call
