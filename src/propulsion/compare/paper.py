"""The paper's number beside ours, where model, data set, method and metric are the same."""

from __future__ import annotations

from propulsion.compare.summary import Column, Summary


def paper_score(summary: Summary, row: str, column: Column) -> float | None:
    """What the paper reports, out of 100; None where it has no such number."""
    return None
