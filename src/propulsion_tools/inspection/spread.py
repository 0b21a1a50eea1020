"""How a set of gains spreads around the identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Spread:
    """Where the values of z, or of a gain, lie.

    Attributes:
        least: The minimum.
        low: The 5 % quantile.
        median: The median.
        high: The 95 % quantile.
        most: The maximum.
        deviation: The standard deviation.
        moved: The root mean square of value - 1, the distance from the identity.
    """

    least: float
    low: float
    median: float
    high: float
    most: float
    deviation: float
    moved: float


def spread(arrays: Sequence[npt.NDArray[np.float64]]) -> Spread:
    """The spread of all values in arrays of any shape, each value counting once."""
    values = np.concatenate([array.ravel() for array in arrays])
    least, low, median, high, most = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
    return Spread(
        least=float(least),
        low=float(low),
        median=float(median),
        high=float(high),
        most=float(most),
        deviation=float(values.std()),
        moved=float(np.sqrt(np.square(values - 1).mean())),
    )
