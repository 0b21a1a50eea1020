"""Windows of tokens put together into a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from propulsion_tools.tasks.base import Batch

NOT_SCORED = -100  # the label that losses pass over
Collate = Callable[[list[dict[str, Any]]], Batch]


@dataclass(frozen=True)
class WindowCollator:
    """Pads to the longest window of a batch, on the right.

    Args:
        tokenizer: Pads what the model reads.
        fill: What each further column of lists is filled up with, by its name.
    """

    tokenizer: Any
    fill: Mapping[str, int]

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Tensors by name: (batch, tokens) for lists, (batch,) for numbers."""
        read = [name for name in self.tokenizer.model_input_names if name in rows[0]]
        batch = dict(self.tokenizer.pad([{name: row[name] for name in read} for row in rows], return_tensors="pt"))
        for name in rows[0]:
            if name not in read:
                values = [row[name] for row in rows]
                batch[name] = self._filled(values, self.fill[name]) if name in self.fill else torch.tensor(values)
        return batch

    def _filled(self, values: Sequence[list[int]], fill: int) -> Tensor:
        longest = max(len(value) for value in values)
        return torch.tensor([value + [fill] * (longest - len(value)) for value in values])


@dataclass(frozen=True)
class LeftCollator:
    """Pads to the longest row of a batch, on the left, so that all rows end together.

    Args:
        fill: What a column of lists is filled up with, by its name; 0 where nothing is said.
    """

    fill: Mapping[str, int]

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        """Tensors by name: (batch, tokens) for lists, (batch,) for numbers."""
        return {name: self._column(name, [row[name] for row in rows]) for name in rows[0]}

    def _column(self, name: str, values: list[Any]) -> Tensor:
        if not isinstance(values[0], list):
            return torch.tensor(values)
        longest, fill = max(map(len, values)), self.fill.get(name, 0)
        return torch.tensor([[fill] * (longest - len(value)) + value for value in values])
