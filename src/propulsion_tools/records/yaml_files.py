"""YAML of a user, as the values that it stands for, if they are not far more than its size lets expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError, require

MOST_VALUES = 100_000
"""Of a file, each counted as often as it is repeated by an alias."""


def read_yaml(file: Path, loader: Any = None) -> Any:
    """The value in a file.

    Args:
        file: The file.
        loader: A `SafeLoader` of PyYAML; None: that one.

    Raises:
        OptionError: It is not YAML, or its aliases make more of it than `MOST_VALUES`.
        MissingExtraError: PyYAML is not installed.
    """
    yaml = require("yaml", "train")
    try:
        reader = (loader or yaml.SafeLoader)(file.read_text(encoding="utf-8"))
        try:
            node = reader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > MOST_VALUES:
                raise OptionError(f"{file} has aliases that stand for more than {MOST_VALUES:,} values: write fewer.")
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, a number too long, brackets too deep
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node of YAML's graph stands for, those that are repeated counted each time."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # of one that holds itself
        inner = node.value if isinstance(node.value, list) else []
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
