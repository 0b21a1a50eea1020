"""What a figure of kernels shows, whatever draws it: a line for each moment of training, as the paper's figure 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from propulsion_tools.theory.alignment import Array, nearness


@dataclass(frozen=True)
class KernelSnapshot:
    """The kernels at one moment of training.

    Attributes:
        title: When, "before training" for example.
        full: K^F, of shape (n, n).
        tuned: K^P, of shape (n, n).
    """

    title: str
    full: Array
    tuned: Array


@dataclass(frozen=True)
class Picture:
    """One square heat map.

    Attributes:
        name: What it shows.
        symbol: The same as a formula in mathtext.
        values: Shape (n, n).
        is_distance: Whether the values start at zero; else their sign counts.
    """

    name: str
    symbol: str
    values: Array
    is_distance: bool

    @property
    def limit(self) -> float:
        """The end of the colour scale: the 99 % quantile of the magnitudes."""
        return float(np.quantile(np.abs(self.values), 0.99)) or float(np.abs(self.values).max()) or 1.0


def pictures(snapshot: KernelSnapshot, method: str) -> list[Picture]:
    """K^F, K^P, their distance, and their distance once K^P has the scale that suits K^F best."""
    scale = nearness(snapshot.full, snapshot.tuned).scale
    letter = method[0].upper()
    return [
        Picture("all weights", "$K^F$", snapshot.full, False),
        Picture(method, f"$K^{letter}$", snapshot.tuned, False),
        Picture("distance", f"$|K^F - K^{letter}|$", np.abs(snapshot.full - snapshot.tuned), True),
        Picture(
            f"distance, {method} × {scale:.3g}",
            f"$|K^F - \\alpha K^{letter}|$",
            np.abs(snapshot.full - scale * snapshot.tuned),
            True,
        ),
    ]


def summary(snapshot: KernelSnapshot) -> str:
    """The numbers of a snapshot in one line."""
    near = nearness(snapshot.full, snapshot.tuned)
    return (
        f"relative distance {near.distance:.3g}, at the best scale {near.aligned_distance:.3f}; "
        f"centred alignment {near.alignment:.3f}; correlation {near.correlation:.3f}"
    )


def runs(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Label, start and stop of each stretch of equal labels."""
    stretches: list[tuple[str, int, int]] = []
    for position, label in enumerate(labels):
        if stretches and stretches[-1][0] == label:
            stretches[-1] = (label, stretches[-1][1], position + 1)
        else:
            stretches.append((label, position, position + 1))
    return stretches


LONGEST = 14  # letters of a name


def names_with_room(labels: Sequence[str], room: float) -> list[tuple[str, float]]:
    """The names of the stretches of equal labels and where their middles are; without those that would touch others.

    Args:
        labels: Of the samples, in their order.
        room: What a name needs, in samples; the longest stretches are named first.
    """
    chosen: list[tuple[str, float]] = []
    for label, start, stop in sorted(runs(labels), key=lambda run: run[1] - run[2]):
        middle = (start + stop - 1) / 2
        if all(abs(middle - other) >= room for _, other in chosen):
            chosen.append((label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…", middle))
    return sorted(chosen, key=lambda item: item[1])
