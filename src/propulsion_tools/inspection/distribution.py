"""How the trained vectors spread over blocks and dimensions, before and after, as the paper's figure 9."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from propulsion_tools.inspection.figure_files import figure_bytes
from propulsion_tools.inspection.figure_style import quiet_axes, titled_figure
from propulsion_tools.inspection.heatmap_panels import Panel, panels
from propulsion_tools.inspection.palette import FAINT, INK, SERIES
from propulsion_tools.inspection.saved_adapter import SavedAdapter

LINE, BANDS = SERIES[0], ((0.0, 1.0, 0.15), (0.05, 0.95, 0.25), (0.25, 0.75, 0.4))  # quantiles, and their opacity
COLUMNS = 4
PANEL = (2.9, 2.2)  # inches


def draw_distribution(adapter: SavedAdapter, kind: str) -> bytes:
    """Draw the distribution of z: over all dimensions, and block by block, for each kind of layer.

    Args:
        adapter: The adapter.
        kind: "png" or "svg".

    Returns:
        The file's content.
    """
    shown = panels(adapter, "z")
    rows = -(-len(shown) // COLUMNS)
    title = f"z before and after training in “{adapter.folder.resolve().name}”: {start(adapter)}"
    figure = titled_figure((COLUMNS * PANEL[0], 0.6 + 2 * rows * PANEL[1]), title, fontsize=10)
    grid = figure.subplots(2 * rows, COLUMNS, squeeze=False)
    reach = 1.05 * max(float(np.abs(panel.values - 1).max()) for panel in shown) or 0.01
    for number, panel in enumerate(shown):
        row, column = divmod(number, COLUMNS)
        _histogram(grid[2 * row][column], panel, reach, first=column == 0)
        _blocks(grid[2 * row + 1][column], panel, reach, first=column == 0)
    for number in range(len(shown), rows * COLUMNS):
        row, column = divmod(number, COLUMNS)
        grid[2 * row][column].set_axis_off()
        grid[2 * row + 1][column].set_axis_off()
    return figure_bytes(figure, kind)


def start(adapter: SavedAdapter) -> str:
    """What is known of z before the training; an adapter keeps where it is, not where it came from."""
    config = adapter.config
    if config.init_weights is True and not config.init_noise:
        return "before, every z was 1 (dashed)"
    return "before, z was drawn at random around 1 (dashed)"


def _histogram(axes: Any, panel: Panel, reach: float, first: bool) -> None:
    values = panel.values.ravel()
    axes.hist(values, bins=80, range=(1 - reach, 1 + reach), color=LINE)
    axes.axvline(1, color=INK, linestyle="--", linewidth=0.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_title(f"{panel.kind} {panel.ending}".strip(), fontsize=8, color=INK, loc="left")
    inside = np.quantile(values, (0.005, 0.995))
    axes.set_xlabel(f"z; 99 % within {inside[0]:.3f} … {inside[1]:.3f}", fontsize=7, color=FAINT)
    if first:
        axes.set_ylabel("dimensions", fontsize=7, color=FAINT)
    quiet_axes(axes, labelsize=6.5)


def _blocks(axes: Any, panel: Panel, reach: float, first: bool) -> None:
    """Bands between quantiles: all values, 90 % and half of them."""
    places = np.arange(len(panel.rows))
    for low, high, opacity in BANDS:
        ends = np.quantile(panel.values, (low, high), axis=1)
        if len(places) > 1:
            axes.fill_between(places, *ends, color=LINE, alpha=opacity, linewidth=0)
        else:
            axes.bar(places, ends[1] - ends[0], bottom=ends[0], color=LINE, alpha=opacity, width=0.5)
    axes.axhline(1, color=INK, linestyle="--", linewidth=0.8)
    axes.set_ylim(1 - reach, 1 + reach)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if len(panel.rows) <= 4:
        axes.set_xticks(places, panel.rows)
    axes.set_xlabel("block", fontsize=7, color=FAINT)
    if first:
        axes.set_ylabel("z: all, 90 %, half", fontsize=7, color=FAINT)
    quiet_axes(axes, labelsize=6.5)
