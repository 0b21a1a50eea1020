"""JSON that any reader takes, and what was read from it against the types of a dataclass."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from propulsion_tools.errors import OptionError
from propulsion_tools.records.fields import hints


def check_types(cls: type, values: Mapping[str, Any]) -> None:
    """Check values that were read from JSON against the annotations of a dataclass.

    Raises:
        OptionError: One is of another type.
    """
    for name, hint in hints(cls).items():
        if name in values and not _fits(values[name], hint):
            raise OptionError(f"{name} is of the wrong type: {repr(values[name])[:80]}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is one of these; null stands for a number that was not finite."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if kind in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if is_dataclass(kind):
        return isinstance(value, dict)
    if kind is float:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return isinstance(value, kind)


def to_json(values: Any) -> str:
    """Indented JSON; numbers that are not finite become null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
