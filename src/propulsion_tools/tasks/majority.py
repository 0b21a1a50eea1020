"""The score of always giving the most frequent answer: what any method has to beat before it has learned anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from propulsion_tools.tasks.metrics import streamed

Answer = TypeVar("Answer", bound=Hashable)


def most_frequent(answers: Iterable[Answer]) -> Answer:
    """The answer that stands there most often; of equals, the first."""
    return Counter(answers).most_common(1)[0][0]


def of_labels(labels: Sequence[float], names: Sequence[str], regression: bool = False) -> dict[str, float]:
    """Scores of one answer for all rows: the most frequent label or, for regression, the mean.

    Args:
        labels: Of a split, one at least.
        names: Of the scores, as in `streamed`.
        regression: Whether labels are numbers to be predicted.
    """
    truth = np.asarray(labels)
    answers = np.full(len(truth), truth.mean() if regression else most_frequent(truth.tolist()))
    return {name: float(score(truth, answers)) for name, score in streamed(names, regression).scores.items()}


def mean_scores(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean over rows that have the same scores, by name; nothing of no rows."""
    rows = list(scores)
    return {name: float(np.mean([row[name] for row in rows])) for name in (rows[0] if rows else ())}


def is_constant(labels: np.ndarray, answers: np.ndarray) -> bool:
    """Whether every row got the same class, though not all have it.

    Args:
        labels: Classes, shape (rows,); anything else has no classes.
        answers: The classes that were answered, shape (rows,).
    """
    if answers.ndim != 1 or answers.dtype.kind not in "iu" or not len(answers):
        return False
    return len(np.unique(answers)) == 1 and len(np.unique(labels)) > 1
