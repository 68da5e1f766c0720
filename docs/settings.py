"""A mkdocs hook that writes the tables of settings.md from the docstrings of `hvd_dqn.config`."""

from __future__ import annotations

import dataclasses
from typing import Any

import griffe

from hvd_dqn.config import Config

MARK = "<!-- every setting -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the mark by the tables. mkdocs calls this for every page."""
    return markdown.replace(MARK, tables()) if MARK in markdown else markdown


def tables() -> str:
    """Return one table for the run's own settings and one for each section."""
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
    """Return a heading and a Markdown table with one row per setting."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, value in values.items():
        member = described[name]
        default = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = in_one_line(member).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | `{default}` | {choices(str(member.annotation))}{text} |")
    return "\n".join([f"## {title}", "", *rows])


def in_one_line(described: griffe.Object) -> str:
    """Return the docstring on one line."""
    return " ".join(described.docstring.value.split())


def choices(annotation: str) -> str:
    """Return the allowed values of a `Literal` annotation, or an empty string for any other."""
    if "Literal[" not in annotation:
        return ""
    inside = annotation.partition("Literal[")[2].partition("]")[0]
    return ", ".join(f"`{choice.strip()[1:-1]}`" for choice in inside.split(",")) + ". "
