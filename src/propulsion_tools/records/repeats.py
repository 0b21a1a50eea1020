"""What stands in a list more than once, in the time that it takes to go through it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)


def first_repeated(values: Iterable[Value]) -> list[Value]:
    """The first value that stands twice, alone in a list; an empty list where each stands once."""
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            return [value]
        seen.add(value)
    return []
