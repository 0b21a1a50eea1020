"""How what runs says what it decided."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], object]
"""Is given one sentence for a person."""


def keep_quiet(sentence: str) -> None:
    """Say nothing."""
