"""What people type, translated to what the parser accepts: `1e6` for an integer, `256,256` for
several values, `true` or `none` in any case, and switches without a value.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.names import closest_names
from hvd_dqn.config import keywords

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_NONE = ("none", "null")
_NUMBER = re.compile(r"-\.?\d")


class Option(NamedTuple):
    """One option: the class of its field and the path of attributes to it, its name on the command
    line, its type, and what the annotation says of it (tyro's `conf`). `section` is empty for the
    options of no section.
    """

    owner: type
    path: tuple[str, ...]
    name: str
    section: str
    kind: Any
    marks: tuple[Any, ...]

    @property
    def is_positional(self) -> bool:
        """Whether it is written without its name."""
        return tyro.conf.Positional in self.marks

    @property
    def choices(self) -> tuple[Any, ...]:
        """The types of a union, or the one type."""
        is_union = typing.get_origin(self.kind) in (typing.Union, types.UnionType)
        return typing.get_args(self.kind) if is_union else (self.kind,)

    @property
    def is_tuple(self) -> bool:
        """Whether it takes several values."""
        return typing.get_origin(self.kind) is tuple

    @property
    def is_keywords(self) -> bool:
        """Whether its value is a JSON object, whose keys have options of their own."""
        return any(isinstance(mark, keywords.KeywordsMark) for mark in self.marks)

    def value_in(self, instance: Any) -> Any:
        """Return the option's value in an instance of its dataclass."""
        return functools.reduce(getattr, self.path, instance)


def options_of(kind: type, section: str = "", path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yield the options of a dataclass, in its order; those of its sections follow."""
    hints = typing.get_type_hints(kind, include_extras=True)
    sections: list[tuple[type, str, str]] = []
    for spec in dataclasses.fields(kind):
        hint, marks = hints[spec.name], tuple[Any, ...]()
        if typing.get_origin(hint) is Annotated:
            hint, marks = hint.__origin__, hint.__metadata__
        if dataclasses.is_dataclass(hint):
            is_unnamed = any(getattr(mark, "name", None) == "" for mark in marks)
            inner = typing.cast(type, hint)
            sections.append((inner, section if is_unnamed else spec.name, spec.name))
            continue
        name = "--" + ".".join(filter(None, (section, spec.name))).replace("_", "-")
        yield Option(kind, (*path, spec.name), name, section, hint, marks)
    for inner, name, field in sections:
        yield from options_of(inner, name, (*path, field))


def translate(
    kind: type,
    words: Sequence[str],
    *,
    booleans_take_values: bool,
    program: str,
    default: Any = None,
) -> list[str]:
    """Return `words` as tyro accepts them for the dataclass `kind`. Keys of JSON objects are set
    over those of `default`, an instance of it.

    Raises `UserError` for an unknown option.
    """
    options = {option.name: option for option in options_of(kind) if not option.is_positional}
    has_positional = any(option.is_positional for option in options_of(kind))
    words, of_objects = _without_keys(words, options, default)
    rest, translated = list(words), list[str]()
    while rest:
        word = rest.pop(0)
        if not _is_option(word):
            translated.append(word)
            continue
        typed, has_value, value = word.partition("=")
        name = typed.replace("_", "-")
        values = [value] if has_value else []
        option = options.get(name) or _negated(name, options)
        if option is None:
            raise UserError(*_unknown(typed, list(options), program))
        if bool in option.choices:
            if option.name != name:
                values = ["False"]
            elif not has_value and rest and not _is_option(rest[0]):
                is_value = rest[0].lower() in (*_TRUE, *_FALSE) or not has_positional
                values = [rest.pop(0)] if is_value else []
            translated += _boolean(option, values, booleans_take_values)
        elif option.is_tuple:
            while not has_value and rest and not _is_option(rest[0]):
                values.append(rest.pop(0))
            translated += [option.name, *_several(option, values)]
        else:
            if not has_value and rest and not _is_option(rest[0]):
                values = [rest.pop(0)]
            single = [_single(option, value) for value in values]
            is_negative = bool(single) and single[0].startswith("-")
            translated += [f"{option.name}={single[0]}"] if is_negative else [option.name, *single]
    return [*translated, *of_objects]


def _without_keys(
    words: Sequence[str], options: dict[str, Option], default: Any
) -> tuple[list[str], list[str]]:
    """Return the words without options of keys of JSON objects, such as `--env.kwargs.size 4`, and
    without the objects that these change; and these objects, changed.
    """
    objects = [option for option in options.values() if option.is_keywords]
    rest, others, changes = list(words), list[str](), dict[str, dict[str, Any]]()
    while rest:
        word = rest.pop(0)
        typed, has_value, value = word.partition("=")
        name = typed.replace("_", "-")
        option = next((o for o in objects if name.startswith(f"{o.name}.")), None)
        if option is None:
            others.append(word)
            continue
        if not has_value:
            if not rest or _is_option(rest[0]):
                raise UserError(f"{typed}: needs a value, JSON or text")
            value = rest.pop(0)
        first, *inner = typed[len(option.name) + 1 :].split(".")
        change = keywords.nested([first.replace("-", "_"), *inner], keywords.value_of(value))
        changes[option.name] = keywords.merged(changes.get(option.name, {}), change)
    of_objects: list[str] = []
    for name, change in changes.items():
        others, text = _taken(others, name, str(options[name].value_in(default)))
        is_object = not keywords.problem_of(text)
        of_objects += [name, keywords.merged_text(text, change) if is_object else text]
    return others, of_objects


def _taken(words: list[str], name: str, otherwise: str) -> tuple[list[str], str]:
    """Return the words without the option `name`, and its value there, or `otherwise`."""
    rest, kept, found = list(words), list[str](), otherwise
    while rest:
        word = rest.pop(0)
        typed, has_value, value = word.partition("=")
        if typed.replace("_", "-") != name:
            kept.append(word)
        elif has_value or rest:
            found = value if has_value else rest.pop(0)
    return kept, found


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not _NUMBER.match(word)


def _negated(name: str, options: dict[str, Option]) -> Option | None:
    """Return the boolean that `--no-x`, `--section.no-x` or `--no-section.x` switches off."""
    positive = re.sub(r"^--no-|\.no-", lambda found: found[0].replace("no-", ""), name, count=1)
    option = options.get(positive)
    return option if option is not None and bool in option.choices else None


def _boolean(option: Option, values: list[str], takes_value: bool) -> list[str]:
    """Return the words of a boolean: with its value, or as a switch that is there or not."""
    value = values[0] if values else "True"
    value = {**dict.fromkeys(_TRUE, "True"), **dict.fromkeys(_FALSE, "False")}.get(
        value.lower(), value
    )
    if takes_value or value not in ("True", "False"):
        return [option.name, value]
    return [option.name] if value == "True" else []


def _several(option: Option, values: list[str]) -> list[str]:
    """Return the values of a tuple: `1,2`, `(1, 2)` and `[1,2]` are 1 and 2; `none` is no value.
    A value with an object, `name={"a": 1, "b": 2}`, is one.
    """
    parts = [part for value in values for part in _parts(value)]
    if len(parts) == 1 and parts[0].lower() in _NONE:
        return []
    element = option._replace(kind=typing.get_args(option.kind)[0])
    return [_single(element, part) for part in parts if part]


def _parts(value: str) -> list[str]:
    return [value] if "={" in value else re.split(r"[\s,]+", value.strip("[]() "))


def _single(option: Option, value: str) -> str:
    kinds = option.choices
    words = [str(word) for kind in kinds for word in _words(kind)]
    if value.lower() in _NONE and type(None) in kinds:
        return "None"
    if value not in words and value.lower() in words:
        return value.lower()
    if int in kinds:
        return _integer(value)
    return value


def _words(kind: Any) -> tuple[Any, ...]:
    """Return the values of a `Literal`."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _integer(value: str) -> str:
    """Return `1e6`, `1_000_000` and `64.0` as an integer; other text unchanged."""
    try:
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else value
    except ValueError:
        return value


def _unknown(name: str, known: list[str], program: str) -> tuple[str, str]:
    found = f"{program.removeprefix('hvd-dqn ')}: unknown option {name}"
    close = closest_names(name, known)
    if close:
        return found, f"did you mean {' or '.join(close)}? (see {program} --help)"
    if name.lstrip("-") in ("np", "ranks", "workers", "num-workers", "nproc", "gpus", "num-gpus"):
        return found, "ranks are started by a launcher: horovodrun -np N hvd-dqn train …"
    return found, f"see {program} --help"
