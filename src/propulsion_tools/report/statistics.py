"""Means over seeds, and the paired bootstrap over the rows of a validation split."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from propulsion_tools.errors import UnknownNameError
from propulsion_tools.report.noise import SeedNoise
from propulsion_tools.tasks.metrics import Score, streamed

RESAMPLES = 1000
SEED_POINTS = 101
"""Points of the distribution that stands for other seeds."""
Rows = Mapping[str, np.ndarray]
"""``labels`` and ``answers`` of one run, or what each row scored by the name of the score, each of shape (rows,)."""


@dataclass(frozen=True)
class Mean:
    """A score over seeds: its mean, and its standard deviation where there are two seeds or more."""

    mean: float
    std: float | None
    count: int


def mean_of(values: Sequence[float]) -> Mean:
    """The mean and the standard deviation (of a sample) of at least one value."""
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Difference:
    """By how much a row beats another, over seeds and the rows of the split.

    Attributes:
        peer: The other.
        mean: Its score taken from ours.
        low: The 2.5 % quantile of the bootstrap, to which the noise of the seeds is added.
        high: The 97.5 % quantile.
        p: Two-sided: how often it has the other sign, times two.
    """

    peer: str
    mean: float
    low: float
    high: float
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def resampled(runs: Sequence[Rows], metric: str, count: int = RESAMPLES) -> np.ndarray | None:
    """The mean of a score over runs, for resamples of the rows of their split.

    Equal numbers of rows are resampled alike, so that two methods on one split, and the seeds of each, are paired.

    Args:
        runs: One for each seed.
        metric: The name of the score.
        count: How many resamples.

    Returns:
        Shape (count,); None where neither the answers nor the scores of rows were kept, or a score is of all rows.
    """
    if runs and all(len(rows.get(metric, ())) for rows in runs):
        return np.mean([rows[metric][_chosen(len(rows[metric]), count)].mean(axis=1) for rows in runs], axis=0)
    score = _score(metric)
    if score is None or not runs or any("answers" not in rows or not len(rows["answers"]) for rows in runs):
        return None
    return np.mean([_resampled(rows["labels"], rows["answers"], metric, score, count) for rows in runs], axis=0)


def _chosen(rows: int, count: int) -> np.ndarray:
    """The rows of each resample, (count, rows): the same for equal numbers of rows."""
    return np.random.default_rng(rows).integers(rows, size=(count, rows))


def _resampled(labels: np.ndarray, answers: np.ndarray, metric: str, score: Score, count: int) -> np.ndarray:
    chosen = _chosen(len(labels), count)
    # Called a thousand times, scikit-learn and scipy take a hundred times as long as one pass over all resamples.
    if metric == "accuracy":
        return (labels == answers)[chosen].mean(axis=1)
    if metric == "pearson" or (metric == "mcc" and set(np.unique([labels, answers])) <= {0, 1}):
        return _correlations(labels[chosen], answers[chosen])
    return np.array([score(labels[some], answers[some]) for some in chosen])


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row, 0 where it is undefined; of zeros and ones, that is Matthews' coefficient."""
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x.astype(np.float64), y.astype(np.float64)))
    scale = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    return np.divide((x * y).sum(axis=1), scale, out=np.zeros(len(x)), where=scale > 1e-12)


def _score(metric: str) -> Score | None:
    try:
        return streamed((metric,)).scores[metric]
    except UnknownNameError:
        return None


def difference(
    mine: np.ndarray, other: np.ndarray, observed: float, peer: str, seeds: Sequence[Sequence[float]] = ()
) -> Difference:
    """The paired bootstrap of two methods over the rows, with the noise of the seeds on top (as in `half_width`).

    Args:
        mine: From `resampled`, shape (count,).
        other: The peer's, of the same resamples.
        observed: The difference of the scores themselves.
        peer: Its name.
        seeds: The scores of both by seed; without two of one, or none: the runs are taken as they are.
    """
    gaps = (mine - other)[:, None] + SeedNoise.of(seeds).points(SEED_POINTS)
    low, high = np.quantile(gaps, (0.025, 0.975))
    tail = min((gaps <= 0).mean(), (gaps >= 0).mean()) + 1 / len(mine)
    return Difference(peer, observed, float(low), float(high), min(1.0, float(2 * tail * len(mine) / (len(mine) + 1))))
