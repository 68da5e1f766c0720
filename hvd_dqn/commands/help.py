"""The help of a command, as text that fits the terminal."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from hvd_dqn.commands.arguments import Option, options_of
from hvd_dqn.common.errors import UserError, did_you_mean

RUN = "run"
"""The name of the settings that belong to no section."""
_WIDEST = 100
_UNBROKEN = "\u00a0"
"""A space at which no line ends."""
_TYPES: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


class Help(typing.NamedTuple):
    """The command, its examples, and the options that its help shows first."""

    program: str
    examples: Sequence[str] = ()
    first: Sequence[str] = ()


def render(kind: type, about: Help, default: Any, *, section: str = "", switches: bool) -> str:
    """Return the help of the options `kind`, or of one `section` of them. `default` has the values
    to show, unless it is not an instance of `kind`; `switches`: booleans take no value.

    Raises `UserError` for an unknown section.
    """
    options = list(options_of(kind))
    sections = list(dict.fromkeys(option.section for option in options))
    names = [name or RUN for name in sections]
    show = functools.partial(_option, default=default, switches=switches)
    if section:
        if section not in names:
            raise UserError(f"{about.program} --help {section}", did_you_mean(section, names))
        return "\n".join(_section(options, "" if section == RUN else section, show))
    positional = [option for option in options if option.is_positional]
    words = [*(_metavar(option, switches=False) for option in positional), "[OPTIONS]"]
    lines = [f"usage: {about.program} {' '.join(words)}", "", *_wrapped(_doc(kind))]
    if about.examples:
        lines += ["", "examples", *(f"  {example}" for example in about.examples)]
    if about.first:
        by_name = {option.name: option for option in options}
        lines += ["", "the options that people change most"]
        lines += [line for name in about.first for line in show(by_name[name])]
        lines += [
            "",
            *_wrapped(f"all options, by section; --help SECTION shows one: {', '.join(names)}"),
        ]
    for name in sections:
        lines += ["", *_section(options, name, show)]
    return "\n".join(lines)


def _section(options: list[Option], name: str, show: Any) -> list[str]:
    """Return the lines of one section, with what its class says of it."""
    own = [option for option in options if option.section == name]
    title = f"{name}: {_doc(own[0].owner).rstrip('.')}" if name else "options"
    return [*_wrapped(title), *(line for option in own for line in show(option))]


def _option(option: Option, *, default: Any, switches: bool) -> list[str]:
    """Return an option's name and, indented, what it does."""
    metavar = _metavar(option, switches=switches)
    head = metavar if option.is_positional else f"{option.name} {metavar}".rstrip()
    text = (
        f"{field_docs(option.owner).get(option.path[-1], '')} {_default(option, default, switches)}"
    )
    return [f"  {head}", *_wrapped(text.strip(), indent=8)]


def _metavar(option: Option, *, switches: bool) -> str:
    named = _mark(option, "metavar")
    if named is not None:
        return str(named)
    if option.kind is bool:
        return "" if switches else "[True|False]"
    if option.is_tuple:
        return f"{_type_name(typing.get_args(option.kind)[0])} …"
    return "|".join(map(_type_name, option.choices))


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    return "none" if kind is types.NoneType else _TYPES.get(kind, str(kind))


def _default(option: Option, default: Any, switches: bool) -> str:
    """Return `(default: VALUE)`, or nothing if the option's text says what happens without it."""
    hint = _mark(option, "help_behavior_hint")
    if hint is not None:
        return str(hint)
    if option.kind is bool and switches:
        return ""
    value = _value(option, default)
    if value is dataclasses.MISSING:
        return "(required)"
    if value is None:
        return f"(default:{_UNBROKEN}none)"
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"(default:{_UNBROKEN}{shown})" if shown else ""


def _value(option: Option, default: Any) -> Any:
    """Return the option's value in `default`, or that of its class."""
    if dataclasses.is_dataclass(default):
        return functools.reduce(getattr, option.path, default)
    return {spec.name: spec.default for spec in dataclasses.fields(option.owner)}[option.path[-1]]


def _mark(option: Option, name: str) -> Any:
    """Return what the annotation says, by tyro's name for it, or `None`."""
    values = [getattr(mark, name, None) for mark in option.marks]
    return next((value for value in values if value is not None), None)


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class, by field, each on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    docs = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in itertools.pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def _doc(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def _wrapped(text: str, indent: int = 0) -> Iterable[str]:
    """Return the paragraphs of a text in lines that fit the terminal."""
    width = min(_WIDEST, max(40, shutil.get_terminal_size().columns)) - 1
    margin = " " * indent
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [""] if lines else []
        lines += textwrap.wrap(
            re.sub(r"[ \n]+", " ", paragraph),
            width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [line.replace(_UNBROKEN, " ") for line in lines]
