"""The Jacobian before and after training as heat maps (figure 7), with the error of the first-order expansion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from propulsion_tools.inspection.figure_files import figure_bytes
from propulsion_tools.inspection.figure_style import quiet_axes, titled_figure
from propulsion_tools.inspection.palette import DIVERGING, EDGE, FAINT, FROM_ZERO, GRID, INK, SERIES
from propulsion_tools.theory.alignment import Array
from propulsion_tools.theory.linearization import Departure

LINE, SECOND = SERIES[:2]
COLUMNS = 240  # that can be told apart in a panel


def draw_jacobian(
    before: Array,
    after: Array,
    departures: Sequence[Departure],
    places: Sequence[str],
    outputs: int,
    title: str,
    kind: str,
) -> bytes:
    """Draw both Jacobians, the absolute difference, and the linearisation error over training.

    Args:
        before: ∇φ(θ_0), of shape (n · C, P).
        after: ∇φ(θ_t), of the same shape.
        departures: The model beside its expansion, step by step.
        places: The name of each column's layer; its changes are marked.
        outputs: C, the rows that each sample has.
        title: Stands above all.
        kind: "png" or "svg".

    Returns:
        The file's content.
    """
    figure = titled_figure((11.4, 5.6), title)
    grid = figure.add_gridspec(2, 6, height_ratios=(1.2, 1))
    heat = [figure.add_subplot(grid[0, 2 * column : 2 * column + 2]) for column in range(3)]
    limit = float(np.quantile(np.abs(np.stack([before, after])), 0.99)) or 1.0
    names = ("before training", f"after {departures[-1].step} steps", "absolute difference")
    for axes, values, name in zip(heat, (before, after, np.abs(after - before)), names, strict=True):
        _heat(figure, axes, values, name, limit, outputs)
    _curves(figure.add_subplot(grid[1, :3]), departures)
    _layers(figure.add_subplot(grid[1, 3:]), before, after, places)
    return figure_bytes(figure, kind)


def _heat(figure: Any, axes: Any, values: Array, name: str, limit: float, outputs: int) -> None:
    step = -(-values.shape[1] // COLUMNS)
    is_difference = name.startswith("absolute")
    scale = FROM_ZERO.lower() if is_difference else DIVERGING
    colours = {"cmap": scale, "vmin": 0 if is_difference else -limit, "vmax": limit}
    extent = (0, values.shape[1], len(values) / outputs, 0)
    image = axes.imshow(values[:, ::step], aspect="auto", interpolation="nearest", extent=extent, **colours)
    axes.set_title(name, fontsize=8.5, color=INK, loc="left")
    axes.set_xlabel("trained dimension" + (f" (1 in {step} shown)" if step > 1 else ""), fontsize=7.5, color=FAINT)
    axes.set_ylabel("sample" + (f", {outputs} outputs each" if outputs > 1 else ""), fontsize=7.5, color=FAINT)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.tick_params(length=0, labelsize=7, colors=FAINT)
    for side in axes.spines.values():
        side.set(color=EDGE, linewidth=0.5)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_linewidth(0)
    bar.ax.tick_params(labelsize=6.5, colors=FAINT, length=2, pad=1)


def _curves(axes: Any, departures: Sequence[Departure]) -> None:
    moved = [departure for departure in departures if departure.step]
    steps = [departure.step for departure in moved]
    axes.plot(steps, [item.change for item in moved], color=LINE, linewidth=1.6, marker="o", markersize=3)
    axes.plot(steps, [item.error for item in moved], color=SECOND, linewidth=1.6, marker="o", markersize=3)
    axes.set_title("Outputs beside their first-order expansion at the start", fontsize=8.5, color=INK, loc="left")
    axes.set_xlabel("step", fontsize=7.5, color=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(
        ["change of the outputs", "error of the expansion"],
        fontsize=7.5,
        frameon=False,
        labelcolor=INK,
        loc="best",
    )
    _quiet_with_grid(axes)


def _layers(axes: Any, before: Array, after: Array, places: Sequence[str]) -> None:
    """‖J_t - J_0‖ / ‖J_0‖ for each kind of layer."""
    kinds = list(dict.fromkeys(places))
    columns = np.array(places)
    shares = [
        float(np.linalg.norm((after - before)[:, columns == kind]) / np.linalg.norm(before[:, columns == kind]))
        for kind in kinds
    ]
    bars = axes.barh(range(len(kinds)), shares, color=LINE, height=0.62)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3, fontsize=7, color=FAINT)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_title("Relative change of the Jacobian by kind of layer", fontsize=8.5, color=INK, loc="left")
    axes.set_xlim(0, 1.15 * max(shares) or 1)
    _quiet_with_grid(axes)
    axes.grid(visible=False)


def _quiet_with_grid(axes: Any) -> None:
    quiet_axes(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_ylim(bottom=axes.get_ylim()[0] if axes.yaxis_inverted() else min(0, axes.get_ylim()[0]))
