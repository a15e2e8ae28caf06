"""The settings of a run as JSON, and back: what does not fit is named."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from wsram.config import CONFIGS, Config
from wsram.errors import UserError
from wsram.strict_json import loads


def to_json(config: Any) -> str:
    """A config dataclass as indented JSON; paths become strings."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def from_json(text: str, source: str | Path) -> Config:
    """The settings of a run from JSON text; `UserError` names `source` and the first thing that does not fit."""
    try:
        value = loads(text)
    except ValueError as error:
        raise UserError(f"{source} is not valid JSON ({error}); restore it or start a new run") from error
    task = value.get("task") if isinstance(value, dict) else None
    if not isinstance(task, str) or task not in CONFIGS:
        raise UserError(f"{source}: expected a task, one of {', '.join(CONFIGS)}, got {task!r}")
    return typing.cast(Config, _build(CONFIGS[task], value, str(source)))


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as the type `kind`, recursively; `where` names the place for the error message."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or (unknown := set(value) - set(hints)):
            came = ", ".join(sorted(unknown)) if isinstance(value, dict) else type(value).__name__
            raise UserError(f"{where}: expected the settings {', '.join(hints)}, got {came}; made by another version?")
        fields = {name: _build(hints[name], item, f"{where}: {name}") for name, item in value.items()}
        return typing.cast(Any, kind)(**fields)
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # the latter of a Literal or None
        return None if value is None else _build(next(c for c in choices if c is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        kinds = [choices[0]] * len(value) if choices[-1] is Ellipsis else choices
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(_build(of, item, where) for of, item in zip(kinds, value, strict=True))
    if origin is Literal and value in choices:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    expected = f"one of {', '.join(map(str, choices))}" if origin is Literal else getattr(kind, "__name__", str(kind))
    raise UserError(f"{where}: expected {expected}, got {value!r}")
