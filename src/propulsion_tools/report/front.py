"""The Pareto front: the rows that no other beats in both cost and score."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

Beyond = Callable[[str, str], bool]
"""Whether the first row is ahead of the second beyond the noise."""


def front(
    points: Mapping[str, tuple[float, float]], cheaper: Beyond | None = None, better: Beyond | None = None
) -> list[str]:
    """The rows that no other of them beats, cheapest first.

    One beats another if it is ahead in cost or in score, and not behind in the other of the two.

    Args:
        points: Cost and score of each row.
        cheaper: Whether a row costs less; None: where the numbers say so.
        better: Whether a row scores better; None: where the numbers say so.
    """
    cheaper = cheaper or (lambda one, other: points[one][0] < points[other][0])
    better = better or (lambda one, other: points[one][1] > points[other][1])

    def beats(one: str, other: str) -> bool:
        saves, gains = cheaper(one, other), better(one, other)
        return (saves and not better(other, one)) or (gains and not cheaper(other, one))

    chosen: list[str] = []
    for row in sorted(points, key=lambda row: (points[row][0], -points[row][1])):
        if not any(beats(member, row) for member in chosen):
            chosen = [*(member for member in chosen if not beats(row, member)), row]
    return chosen


def is_a_line(rows: list[str], cheaper: Beyond, better: Beyond) -> bool:
    """Whether each row of a front is both cheaper and worse than the next: else it has no order to draw."""
    return len(rows) > 1 and all(
        cheaper(one, next_one) and better(next_one, one) for one, next_one in itertools.pairwise(rows)
    )
