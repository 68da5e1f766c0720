"""Checked settings: the base class of the configuration's sections and of command-line options."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import field
from typing import Any, Literal

from hvd_dqn.common.errors import ConfigError as ConfigError


def ranged(default: Any, check: Callable[[Any], bool], text: str) -> Any:
    """A field whose value must pass `check`; errors say "must be `text`".

    The default `dataclasses.MISSING` makes the field required. `None` is never checked.
    """
    return field(default=default, metadata={"check": check, "text": text})


def positive(default: Any = dataclasses.MISSING) -> Any:
    """A field whose value must be greater than 0."""
    return ranged(default, lambda v: v > 0, "greater than 0")


def non_negative(default: Any = dataclasses.MISSING) -> Any:
    """A field whose value must be 0 or greater."""
    return ranged(default, lambda v: v >= 0, "0 or greater")


def fraction(default: Any = dataclasses.MISSING) -> Any:
    """A field whose value must be between 0 and 1."""
    return ranged(default, lambda v: 0 <= v <= 1, "between 0 and 1")


def is_a(value: Any, kind: Any) -> bool:
    """Return whether `value` has the annotated type `kind`.

    An int is accepted for a float; a bool is never accepted for a number.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(is_a(v, args[0]) for v in value)
    if args:  # a union such as `float | None`
        return any(is_a(value, option) for option in args)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return f"of type {kind if typing.get_args(kind) else kind.__name__}"


class Section:
    """Base of a frozen dataclass that checks the type and range of its fields when it is made.

    `prefix` stands before a field's name in errors: `env.` gives `env.num-envs = 0: must be greater
    than 0`, and a command's options have `--`. Names are printed with hyphens, as options are
    written.
    """

    prefix = ""

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for spec in dataclasses.fields(typing.cast(Any, self)):
            value = getattr(self, spec.name)
            if isinstance(value, float) and not math.isfinite(value):
                self.refuse(spec.name, value, "must be finite")
            if not is_a(value, kinds[spec.name]):
                self.refuse(spec.name, value, f"must be {_type_name(kinds[spec.name])}")
            check = spec.metadata.get("check")
            if check is not None and value is not None and not check(value):
                self.refuse(spec.name, value, f"must be {spec.metadata['text']}")

    def refuse(self, name: str, value: Any, reason: str) -> typing.NoReturn:
        """Raise `ConfigError` for the value of the field `name`."""
        raise ConfigError(f"{self.prefix}{name.replace('_', '-')} = {value!r}: {reason}")
