"""Read a `Config` from a file."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hvd_dqn.common.errors import UserError, did_you_mean
from hvd_dqn.config.files import read_settings
from hvd_dqn.config.run import Config
from hvd_dqn.config.section import ConfigError, Section, is_a

_REMOVED: Mapping[str, tuple[Any, ...]] = {
    "evaluation.keep_checkpoints": (2,),  # now evaluation.keep_networks
    "logging.tensorboard": (True,),  # now logging.loggers
}
"""Settings that no longer exist, each with the values that mean what this version does anyway."""
Presets = Mapping[str, Callable[[], Config]]


def load_config(path: Path, presets: Presets = MappingProxyType({})) -> Config:
    """Read a `config.json`, or a YAML or TOML file (see `config.files`). Settings it does not
    mention have the values of the preset that it names, if that is one of `presets`, or their
    defaults.

    Raises `UserError` if the file is missing or damaged, or contains an unknown setting or an
    invalid value.
    """
    saved = read_settings(path)
    try:
        return config_from(saved, presets)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def config_from(saved: Mapping[str, Any], presets: Presets = MappingProxyType({})) -> Config:
    """Return the `Config` with these settings, nested by section as in `config.json`, over those of
    the preset that they name, if that is one of `presets`.

    Raises `UserError` for an unknown setting and `ConfigError` for an invalid value.
    """
    name = saved.get("preset")
    base = presets[name]() if isinstance(name, str) and name in presets else Config()
    return typing.cast(Config, _section(base, saved, ""))


def without_removed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, by `section.field`, without those that were removed from this package and
    whose values change nothing.
    """
    return {name: value for name, value in saved.items() if value not in _REMOVED.get(name, ())}


def _section(base: Section, saved: Mapping[str, Any], prefix: str) -> Section:
    kinds = typing.get_type_hints(type(base))
    values: dict[str, Any] = {}
    for name, value in saved.items():
        if value in _REMOVED.get(prefix + name, ()):
            continue
        field_kind = kinds.get(name)
        if field_kind is None or name == "prefix":
            raise UserError(
                f"unknown setting {prefix + name!r}",
                did_you_mean(
                    prefix + name,
                    Config().flat(),
                    "check its spelling, or use the version of hvd_dqn that wrote the file (see "
                    "run.json)",
                ),
            )
        if isinstance(field_kind, type) and issubclass(field_kind, Section):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{name} = {value!r}: must be a JSON object")
            values[name] = _section(getattr(base, name), value, f"{prefix}{name}.")
        else:
            values[name] = _value(value, field_kind)
    return dataclasses.replace(typing.cast(Any, base), **values)  # type: ignore[no-any-return]


def _value(value: Any, kind: Any) -> Any:
    """Convert what a file cannot express: tuples (from lists), floats (from integers), integers
    (from 1e6), and `None` (from the text "none").
    """
    if isinstance(value, list):
        return tuple(value)
    if is_a(value, int) and is_a(0.5, kind):
        return float(value)
    if isinstance(value, float) and value.is_integer() and is_a(1, kind) and not is_a(0.5, kind):
        return int(value)
    if isinstance(value, str) and value.lower() in ("none", "null") and is_a(None, kind):
        return None
    return value
