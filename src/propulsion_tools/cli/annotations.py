"""The types of options: what they take, in words."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

_WORDS = {
    str: ("text", "texts"),
    int: ("integer", "integers"),
    float: ("number", "numbers"),
    bool: ("true or false", "booleans"),
    NoneType: ("null", "nulls"),
}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a value of this type may have."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def takes_bool(hint: Any) -> bool:
    """Whether true and false are values of this type."""
    return bool in alternatives(hint)


def takes_list(hint: Any) -> bool:
    """Whether several values are one of this type."""
    return any(get_origin(kind) in (list, tuple) for kind in alternatives(hint))


def in_words(hint: Any) -> str:
    """A type for people, for example ``number or null`` for ``float | None``."""
    words = [_one(kind) for kind in alternatives(hint)]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _one(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind][0]
    container, parts = get_origin(kind), get_args(kind)
    if container is dict:
        return "mapping"
    if container in (list, tuple) and parts[0] in _WORDS:
        return f"list of {_WORDS[parts[0]][1]}"
    raise TypeError(f"No words for the type {kind}: say them in cli/annotations.py.")
