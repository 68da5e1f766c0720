"""The tables of settings.md, from the configuration's own docstrings, when the site is built."""

from __future__ import annotations

import dataclasses
from typing import Any

import griffe

from hvd_dqn.config import Config

MARK = "<!-- every setting -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, tables()) if MARK in markdown else markdown


def tables() -> str:
    """One for the run and one for every section."""
    documented = griffe.load("hvd_dqn.config")
    whole = {f.name: getattr(Config(), f.name) for f in dataclasses.fields(Config)}
    own = {n: v for n, v in whole.items() if not dataclasses.is_dataclass(v)}
    parts = [table("The run", documented["run.Config"], own, "")]
    for name, section in whole.items():
        if dataclasses.is_dataclass(section):
            module = type(section).__module__.removeprefix("hvd_dqn.config.")
            described = documented[f"{module}.{type(section).__name__}"]
            values = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
            purpose = in_one_line(described).removesuffix(".")
            title = f"{name}: {purpose[0].lower()}{purpose[1:]}"
            parts.append(table(title, described, values, f"{name}."))
    return "\n\n".join(parts)


def table(title: str, described: griffe.Object, values: dict[str, Any], prefix: str) -> str:
    """A heading and a row for each setting."""
    rows = ["| setting | default | |", "|---|---|---|"]
    for name, value in values.items():
        member = described[name]
        default = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = in_one_line(member).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | `{default}` | {choices(str(member.annotation))}{text} |")
    return "\n".join([f"## {title}", "", *rows])


def in_one_line(described: griffe.Object) -> str:
    """Its docstring."""
    return " ".join(described.docstring.value.split())


def choices(annotation: str) -> str:
    """The values that a setting may have, where they are few."""
    if "Literal[" not in annotation:
        return ""
    inside = annotation.partition("Literal[")[2].partition("]")[0]
    return ", ".join(f"`{choice.strip()[1:-1]}`" for choice in inside.split(",")) + ". "
