"""Settings in files that people write: YAML, TOML and JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from hvd_dqn.common.errors import UserError
from hvd_dqn.common.files import absolute
from hvd_dqn.config.run import Config

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; YAML 1.1 wants 1.0e-3."""


_Loader.yaml_implicit_resolvers = {
    first: [*resolvers] for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # a safe loader


_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".yaml": ("YAML", _yaml),
    ".yml": ("YAML", _yaml),
    ".toml": ("TOML", tomllib.loads),
}
"""By extension: the format's name, and what parses it. Other files are JSON."""


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file, nested by section, with the fields' names.

    Names may be written with hyphens, and as `section.field`. `env.kwargs` and
    `evaluation.env_kwargs` may be mappings instead of JSON objects as text.

    Raises `UserError` if the file cannot be read or is not of the format of its extension.
    """
    name, parse = _PARSERS.get(path.suffix.lower(), ("JSON", json.loads))
    try:
        settings = parse(absolute(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not {name}: {' '.join(str(error).split())}") from error
    if settings is None and name == "YAML":  # an empty file
        settings = {}
    if not isinstance(settings, dict):
        raise UserError(f"{path} does not contain a {name} object with settings")
    try:
        return _nested(settings)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def to_yaml(config: Config) -> str:
    """Return the YAML of all settings, which `read_settings` reads."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))  # lists instead of tuples
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    return text


def _nested(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Raises `ValueError` if a name is both a setting and a section."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, field = _field(name).rpartition(".")
        fields = {field: value} if section else value
        if not isinstance(fields, Mapping):
            nested[field] = value
            continue
        own = nested.setdefault(section or field, {})
        if not isinstance(own, dict):
            raise ValueError(f"{section or field} is both a setting and a section")
        own |= {_field(key): inner for key, inner in fields.items()}
    for section, field in (("env", "kwargs"), ("evaluation", "env_kwargs")):
        own = nested.get(section)
        if isinstance(own, dict) and isinstance(own.get(field), Mapping):
            own[field] = json.dumps(own[field])
    return nested


def _field(name: Any) -> str:
    return str(name).replace("-", "_")
