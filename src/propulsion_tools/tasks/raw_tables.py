"""Raw rows before a task has looked at them: columns by name, plain Python values, in the order of their source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Table = dict[str, list[Any]]
"""Column name → values; every column has the same length."""


@dataclass(frozen=True)
class RawSplits:
    """What a source gave.

    Args:
        tables: Rows by split name.
        notes: What was decided while reading, for the user.
        class_names: For columns whose source names its label ids (the hub does), those names.
        user_editable: Whether the user can edit the source. Empty rows of a file are an error, those of the hub are
            dropped.
    """

    tables: dict[str, Table]
    notes: tuple[str, ...] = ()
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    user_editable: bool = True


_INDEX = re.compile(r"|Unnamed: \d+(\.\d+)*|__index_level_\d+__")  # what pandas calls a table's index
_WHOLE = re.compile(r"\d+")


def is_index(name: str, values: Sequence[Any]) -> bool:
    """Whether a column is the index that pandas writes beside a table: without a name, and of whole numbers."""
    return _INDEX.fullmatch(name) is not None and all(_WHOLE.fullmatch(str(value)) for value in values)


def without_index(table: Table) -> Table:
    """The columns that say something of the rows rather than count them."""
    return {name: values for name, values in table.items() if not is_index(name, values)}


def short(value: Any) -> str:
    """A value as it is written in Python, without what is too long for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def length(table: Table) -> int:
    """The number of rows."""
    return len(next(iter(table.values()))) if table else 0


def take(table: Table, rows: Sequence[int]) -> Table:
    """The rows at these indices."""
    return {name: [values[row] for row in rows] for name, values in table.items()}


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Columns from rows; a key that a row lacks is None there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text: the same on every machine, in every order."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


def sample(table: Table, limit: int | None, salt: str) -> Table:
    """At most `limit` rows, drawn by hash, in their order; a smaller sample is part of every larger one."""
    count = length(table)
    if limit is None or limit >= count:
        return table
    return take(table, sorted(sorted(range(count), key=lambda row: unit_hash(f"{salt}:{row}"))[:limit]))


def split_off_validation(table: Table, fraction: float, key_columns: Sequence[str]) -> tuple[Table, Table]:
    """Split the rows in two by a hash of their text, so that equal texts stay on one side.

    Returns:
        The larger part and the part of about `fraction`, both in the order of `table`.
    """
    keys = ["\n".join(str(table[name][row]) for name in key_columns) for row in range(length(table))]
    small = [row for row, key in enumerate(keys) if unit_hash(f"validation:{key}") < fraction]
    chosen = set(small)
    return take(table, [row for row in range(length(table)) if row not in chosen]), take(table, small)
