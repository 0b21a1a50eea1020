"""A few rows as the tasks read them, without what `datasets` takes to make, map and cache a table: 3 ms, each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class PlainRows:
    """Columns of equal length with that part of the interface of `datasets.Dataset` that tasks use to encode rows.

    Args:
        columns: Name → values.
    """

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    @property
    def column_names(self) -> list[str]:
        """Their names."""
        return list(self.columns)

    def map(self, function: Callable[..., Mapping[str, list[Any]]], **_: Any) -> PlainRows:
        """New columns from all rows and their numbers, as one batch."""
        return PlainRows(function(self.columns, list(range(len(self)))))

    def as_rows(self, names: set[str]) -> list[dict[str, Any]]:
        """Row by row, those of the columns that are among the names."""
        kept = {name: values for name, values in self.columns.items() if name in names}
        return [{name: values[row] for name, values in kept.items()} for row in range(len(self))]
