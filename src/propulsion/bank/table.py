"""The gains of the adapters that are on the device: one row for each, one column for each gain or bias."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from propulsion.bank.adapters import Column, Layout, Part

# What a column holds where an adapter has nothing for it: x · 1 and x + (-0) are x, bit for bit.
IDENTITY: dict[Part, float] = {"gain": 1.0, "negative": 1.0, "bias": -0.0}
BASE_ROW = 0


class Table:
    """Rows of ready gains, of which row 0 is the base model's.

    `values` is replaced, never changed in its size, and a row is written only while nobody uses it: who holds `values`
    and a row may read it without a lock. All that changes the table wants the lock of its owner.

    Attributes:
        values: Float32 of shape (rows, columns).
        columns: Where the values of a layer's part begin and end.
        free_rows: Those that no adapter has.
    """

    def __init__(self, device: torch.device) -> None:
        self.values = torch.empty(1, 0, device=device)
        self.columns: dict[tuple[str, Part], tuple[int, int]] = {}
        self._identity = torch.empty(0)
        self.free_rows: list[int] = []
        self._places: dict[Layout, Tensor] = {}

    @property
    def width(self) -> int:
        """The number of columns."""
        return self.values.shape[1]

    @property
    def rows(self) -> int:
        """How many adapters there is memory for."""
        return len(self.values) - 1

    def width_with(self, layout: Layout) -> int:
        """The number of columns after `add_columns`."""
        return self.width + sum(column.size for column in self._missing(layout))

    def _missing(self, layout: Layout) -> list[Column]:
        return [column for column in layout if (column.layer, column.part) not in self.columns]

    def add_columns(self, layout: Layout) -> None:
        """Make room for all that an adapter has, beside what there is."""
        missing = self._missing(layout)
        if not missing:
            return
        added = [torch.full((len(self.values), column.size), IDENTITY[column.part]) for column in missing]
        width = self.width
        for number, column in enumerate(missing):
            self.columns[column.layer, column.part] = (width, width + column.size)
            width += column.size
            if column.part == "negative" and (column.layer, "gain") in self.columns:
                begin, end = self.columns[column.layer, "gain"]
                if end <= self.width:  # rows without a gain of their own for outputs < 0 have one for all
                    added[number] = self.values[:, begin:end].cpu()
        self.values = torch.cat([self.values, *(part.to(self.values.device) for part in added)], dim=1)
        self._identity = self.values[BASE_ROW].cpu()
        self._places.clear()

    def resize(self, rows: int) -> None:
        """Have memory for so many adapters; rows beyond that must be free."""
        new = torch.empty(rows + 1, self.width, device=self.values.device)
        kept = min(len(new), len(self.values))
        new[:kept] = self.values[:kept]
        self.free_rows = [row for row in self.free_rows if row <= rows] + list(range(len(self.values), rows + 1))
        self.values = new

    def is_free_above(self, rows: int) -> bool:
        """Whether no adapter is in a row beyond so many."""
        return sum(row > rows for row in self.free_rows) == self.rows - rows

    def write(self, layout: Layout, values: Tensor) -> int:
        """Put an adapter into a free row, and return which."""
        row = self.free_rows.pop()
        line = self._identity.clone()
        places = self._places_of(layout)
        line[places] = values
        for (layer, part), (begin, end) in self.columns.items():
            if part == "negative" and (layer, part) not in self._own(layout):
                other = self.columns[layer, "gain"]
                line[begin:end] = line[slice(*other)]
        self.values[row] = line.to(self.values.device)
        return row

    def read(self, row: int, layout: Layout) -> Tensor:
        """The values of an adapter, in its own order, on the CPU."""
        return self.values[row].cpu()[self._places_of(layout)]

    def free(self, row: int) -> None:
        """Give a row to the next adapter."""
        self.free_rows.append(row)

    def _places_of(self, layout: Layout) -> Tensor:
        if layout not in self._places:
            spans = [torch.arange(*self.columns[column.layer, column.part]) for column in layout]
            self._places[layout] = torch.cat(spans) if spans else torch.empty(0, dtype=torch.long)
        return self._places[layout]

    @staticmethod
    def _own(layout: Layout) -> set[tuple[str, Part]]:
        return {(column.layer, column.part) for column in layout if column.part != "gain"}


def layers_of(layouts: Iterable[Layout]) -> set[tuple[str, Part]]:
    """What the adapters of a batch have, each layer and part once."""
    return {(column.layer, column.part) for layout in set(layouts) for column in layout}
