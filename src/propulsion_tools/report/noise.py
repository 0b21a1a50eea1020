"""What is apart, and what is within the noise: of the rows that are scored, of the seeds, of the machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from propulsion_tools.errors import require

Groups = Sequence[Sequence[float]]
"""A cost of runs: one group for each column of the report, one value for each seed."""


def half_width(
    drawn: Sequence[np.ndarray] | None, seeds: Sequence[Sequence[float]], comparisons: int = 1, row: float = 0.0
) -> float | None:
    """Half of the 95 % interval of the difference of two scores.

    The two kinds of noise add: which rows happen to be in the split (the spread of bootstrap resamples, whose runs are
    fixed), and which runs the seeds happen to give (their spread on the same rows).

    Args:
        drawn: The differences of what `resampled` gives, of each column, shape (count,) each. None where the rows'
            answers were not kept: then the seeds must do.
        seeds: The scores of both rows, by seed.
        comparisons: How many differences are looked at together (Bonferroni): of fourteen equals, one is best.
        row: What a single row of the split weighs. It is added, for few rows are no normal distribution: with it, runs
            that differ in five rows are not apart, as by McNemar's exact test.

    Returns:
        None where neither is known.
    """
    if not drawn and min(map(len, seeds)) < 2:
        return None
    of_rows, of_seeds = _of_rows(drawn), SeedNoise.of(seeds)
    width = _t(of_seeds.freedom_beside(of_rows), comparisons) * math.sqrt(of_rows + of_seeds.variance)
    return width + (row if drawn else 0.0)


def around(drawn: Sequence[np.ndarray] | None, seeds: Sequence[float]) -> tuple[float, float] | None:
    """How far the 95 % interval of a score reaches below its mean and above it, with the same two kinds of noise.

    Args:
        drawn: From `resampled`, of each column, shape (count,) each; None where the rows' answers were not kept.
        seeds: The score by seed.

    Returns:
        None where neither is known.
    """
    if not seeds or (not drawn and len(seeds) < 2):
        return None
    of_rows, of_seeds = _of_rows(drawn), SeedNoise.of([seeds])
    ends = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975)) - statistics.fmean(seeds) if drawn else np.zeros(2)
    usual = _t(math.inf)
    scale = _t(of_seeds.freedom_beside(of_rows)) / usual
    down, up = (
        scale * math.sqrt(max(0.0, end) ** 2 + usual**2 * of_seeds.variance)
        for end in (-float(ends[0]), float(ends[1]))
    )
    return down, up


def _of_rows(drawn: Sequence[np.ndarray] | None) -> float:
    return float(np.var(np.mean(drawn, axis=0))) if drawn else 0.0


@dataclass(frozen=True)
class SeedNoise:
    """How much a mean over seeds, or the difference of two such means, says of other seeds.

    Attributes:
        variance: Of the mean, or of the difference; 0 where no row has two seeds.
        freedom: Degrees of freedom of that estimate: with two seeds of two rows, 2.
    """

    variance: float
    freedom: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> SeedNoise:
        """From the scores of each row, by seed."""
        several = [values for values in rows if len(values) > 1]
        variance = sum(statistics.variance(values) / len(values) for values in several)
        return cls(variance, sum(len(values) - 1 for values in several))

    def freedom_beside(self, known: float) -> float:
        """The degrees of freedom of the sum of this variance and one that is known (Satterthwaite)."""
        if not self.variance:
            return math.inf
        return self.freedom * ((known + self.variance) / self.variance) ** 2

    def points(self, count: int) -> np.ndarray:
        """So many values with the quantiles of Student's t, as far apart as other seeds may be; in order, around 0."""
        if not self.variance:
            return np.zeros(1)
        ranks = (np.arange(count) + 0.5) / count
        values: np.ndarray = require("scipy.stats", "train").t.ppf(ranks, self.freedom)
        return math.sqrt(self.variance) * values


@dataclass(frozen=True)
class MachineNoise:
    """By how much equal runs differ in a cost: a standard deviation of logarithms, from all rows of a grid together.

    Two seeds of one row say little about it, those of many rows on one machine more.

    Attributes:
        deviation: Of the logarithm of one run.
        freedom: Degrees of freedom of that estimate.
    """

    deviation: float
    freedom: int

    @classmethod
    def of(cls, groups: Groups) -> MachineNoise | None:
        """From groups of runs that differ in their seed alone; None where no group has two."""
        several = [_logs(group) for group in groups if len(group) > 1]
        freedom = sum(len(logs) - 1 for logs in several)
        squares = sum(statistics.variance(logs) * (len(logs) - 1) for logs in several)
        return cls(math.sqrt(squares / freedom), freedom) if freedom else None

    def width(self, groups: Groups) -> float:
        """Half of the 95 % interval of the mean of a row's runs, as a share of it."""
        return _t(self.freedom) * self.deviation * math.sqrt(_share(groups))

    def is_less(self, mine: Groups, other: Groups) -> bool:
        """Whether a cost of one row is less than that of another beyond the noise, over the columns that both have.

        Args:
            mine: The runs of one row, by column.
            other: Those of the other, in the same columns.
        """
        pairs = [(a, b) for a, b in zip(mine, other, strict=True) if a and b]
        if not pairs:
            return False
        gap = statistics.fmean(statistics.fmean(_logs(a)) - statistics.fmean(_logs(b)) for a, b in pairs)
        share = _share([a for a, _ in pairs]) + _share([b for _, b in pairs])
        return gap < -_t(self.freedom) * self.deviation * math.sqrt(share)


def _share(groups: Groups) -> float:
    """The variance of the mean of the groups' means, in units of the variance of one run."""
    there = [group for group in groups if group]
    return sum(1 / len(group) for group in there) / len(there) ** 2


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log(max(value, 1e-12)) for value in values]


def _t(freedom: float, comparisons: int = 1) -> float:
    """The quantile of Student's t that holds 95 % on both sides, in all comparisons together; normal at infinity."""
    return float(require("scipy.stats", "train").t.ppf(1 - 0.025 / comparisons, freedom))
