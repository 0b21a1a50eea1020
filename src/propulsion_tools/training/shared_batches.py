"""Batches that several processes share: which rows of them are real, and how much each part of a step weighs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

IGNORED = -100
"""What stands for no label in a row of labels."""
Batch = dict[str, Any]


def real_rows(last: int, rows: int, process: int) -> int:
    """How many rows of this process's part of the last batch are its own; the others repeat rows of other batches.

    Accelerate fills the last batch of a split, so that each process has as many rows as the others.

    Args:
        last: How many rows the last batch of all processes has; 0 or less: it is full.
        rows: In the part of each process.
        process: The number of this one, from 0.
    """
    return rows if last < 1 else min(max(last - process * rows, 0), rows)


def first_rows(batch: Batch, count: int) -> Batch:
    """The first rows of a batch."""
    return {name: value[:count] for name, value in batch.items()}


def rows_of(batch: Batch) -> int:
    """How many rows a batch has."""
    return len(next(iter(batch.values())))


def items(batch: Batch) -> int:
    """What the mean loss of a batch is the mean over: its labels, where a row has several, or else its rows."""
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.dim() > 1 and not labels.is_floating_point():
        return int((labels != IGNORED).sum())
    return rows_of(batch)
