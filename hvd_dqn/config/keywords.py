"""Keyword arguments of environments, kept as the text of a JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple


class KeywordsMark(NamedTuple):
    """Marks a setting that is the text of a JSON object: on the command line, `--NAME.KEY VALUE`
    sets one of its keys.
    """

    metavar: str = "JSON"


Keywords = Annotated[str, KeywordsMark()]
"""The text of a JSON object."""
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def problem_of(text: str) -> str:
    """Return why `text` is not a JSON object, or ""."""
    try:
        is_object = isinstance(json.loads(text), dict)
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg} at column {error.colno})"
    return "" if is_object else 'must be a JSON object such as {"continuous": false}'


def value_of(text: str) -> Any:
    """Return the value that a person typed: JSON, true, false or none in any case, or text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _WORDS.get(text.lower(), text)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`; objects in both are merged likewise."""
    result = dict(base)
    for name, value in over.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return the object in which `value` is at `path`."""
    first, *rest = path
    return {first: nested(rest, value) if rest else value}


def merged_text(base: str, over: Mapping[str, Any]) -> str:
    """Return the text of `merged`, or `base` itself if there is nothing to merge."""
    return json.dumps(merged(json.loads(base), over)) if over else base
