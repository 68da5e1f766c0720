"""Settings that name a part of the package, or a function of the user's as `module:function`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{found}: there is no module {error.name!r}") from error
    except AttributeError as error:
        raise ConfigError(f"{found}: {one_line(error)}") from error
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"{found}: cannot be imported ({typed_line(error)})") from error


def _with_one_line_errors(found: str, function: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise ConfigError(f"{found}: raises {typed_line(error)}") from error

    return call
