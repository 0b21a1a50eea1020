"""The heat map as PNG or SVG: what the paper's figure 9 shows, for every layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propulsion.analysis.panels import Panel, heading, lines_of, needs_own_z, panels, reach, shrink
from propulsion.analysis.saved import SavedAdapter

# Blue below 1, red above: told apart by every kind of colour vision, and white is the identity.
COLOURS, INK, FAINT = "RdBu_r", "#222222", "#6b6b6b"

# Inches.
PAGE, MARGIN, GAP, BARS = 12.0, 0.25, 0.45, 0.62
ROW, SMALLEST, TITLE, BELOW = 0.17, 0.34, 0.36, 0.34
HEAD, SCALE = 0.75, 0.95
COLUMNS_PER_INCH = 100


@dataclass
class Page:
    """A figure that is filled from the top, with sizes in inches."""

    figure: Any
    height: float
    y: float = 0.0

    def axes(self, x: float, width: float, height: float) -> Any:
        """Axes whose upper left corner is at (x, y)."""
        box = (x / PAGE, 1 - (self.y + height) / self.height, width / PAGE, height / self.height)
        return self.figure.add_axes(box)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """A line of text whose upper left corner is at (x, y)."""
        self.figure.text(x / PAGE, 1 - y / self.height, text, ha="left", va="top", **style)


def render(adapter: SavedAdapter, kind: str) -> bytes:
    """Draw the gains of an adapter, and its z where that tells more.

    Args:
        adapter: The adapter.
        kind: "png" or "svg".

    Returns:
        The file's content.
    """
    quantities = ["gain", "z"] if needs_own_z(adapter) else ["gain"]
    sections = {quantity: lines_of(panels(adapter, quantity)) for quantity in quantities}
    height = HEAD + sum(SCALE + sum(map(_height, lines)) for lines in sections.values())
    figure = Figure(figsize=(PAGE, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    page = Page(figure, height)
    title, facts = heading(adapter)
    page.text(MARGIN, 0.2, title, fontsize=13, weight="bold", color=INK)
    page.text(MARGIN, 0.48, facts, fontsize=8.5, color=FAINT)
    page.y = HEAD
    for quantity, lines in sections.items():
        _section(page, adapter, quantity, lines)
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    return content.getvalue()


def _height(line: Sequence[Panel]) -> float:
    return TITLE + max(SMALLEST, ROW * len(line[0].rows)) + BELOW


def _section(page: Page, adapter: SavedAdapter, quantity: str, lines: Sequence[Sequence[Panel]]) -> None:
    shown = [panel for line in lines for panel in line]
    limit, furthest = reach(shown), max(float(panel.moved.max()) for panel in shown)
    labels = max(len(row) for panel in shown for row in panel.rows) * 0.065 + 0.12
    page.y += SCALE
    scale_y = page.y
    image = None
    for line in lines:
        width = (PAGE - 2 * MARGIN - GAP * (len(line) - 1)) / len(line)
        top, body = page.y, _height(line) - TITLE - BELOW
        page.y = top + TITLE
        for number, panel in enumerate(line):
            left = MARGIN + number * (width + GAP)
            heat = page.axes(left + labels, width - labels - BARS, body)
            image = _heat(heat, panel, limit, int((width - labels - BARS) * COLUMNS_PER_INCH))
            _bars(page.axes(left + width - BARS + 0.06, BARS - 0.06, body), panel, furthest)
            name = f"  {panel.ending}" if panel.ending else ""
            page.text(left + labels, top + 0.13, panel.kind, fontsize=9, weight="bold", color=INK)
            page.text(left + labels + 0.078 * len(panel.kind) + 0.05, top + 0.14, name, fontsize=8, color=FAINT)
        page.y = top + TITLE + body + BELOW
    page.y, after = scale_y - SCALE + 0.3, page.y
    _scale(page, image, adapter, quantity, limit)
    page.y = after


def _heat(axes: Any, panel: Panel, limit: float, columns: int) -> Any:
    size = panel.values.shape[1]
    image = axes.imshow(
        shrink(panel.values, columns),
        cmap=COLOURS,
        vmin=1 - limit,
        vmax=1 + limit,
        aspect="auto",
        interpolation="nearest",
        extent=(0, size, len(panel.rows), 0),
    )
    axes.set_yticks([row + 0.5 for row in range(len(panel.rows))], panel.rows)
    axes.set_xticks(sorted({0, size // 4, size // 2, 3 * size // 4, size}))
    axes.tick_params(labelsize=7, colors=FAINT, length=0, pad=2)
    for side in axes.spines.values():
        side.set_color("#bbbbbb")
        side.set_linewidth(0.5)
    return image


def _bars(axes: Any, panel: Panel, furthest: float) -> None:
    """How far each row moved, on one scale for all panels of a section."""
    rows = [row + 0.5 for row in range(len(panel.rows))]
    axes.barh(rows, panel.moved, height=0.62, color="#8a8a8a")
    axes.set_xlim(0, furthest or 1)
    axes.set_ylim(len(panel.rows), 0)
    axes.set_axis_off()


def _scale(page: Page, image: Any, adapter: SavedAdapter, quantity: str, limit: float) -> None:
    """The colour bar, with z on its other side where that is the gain's root; and what the rest of the picture is."""
    degree = adapter.layers[0].degree[0]
    symbol = "gain $z^k$, pooled" if quantity == "gain" and adapter.config.num_vectors > 1 else "gain $z^k$"
    symbol = symbol if quantity == "gain" else "$z$"
    axes = page.axes(MARGIN + 0.85, 3.6, 0.14)
    bar = page.figure.colorbar(image, cax=axes, orientation="horizontal", extend="both", extendfrac=0.03)
    bar.outline.set_linewidth(0)
    bar.locator = _locator()
    axes.tick_params(labelsize=7, colors=INK, length=2, pad=1.5)
    page.text(MARGIN, page.y + 0.16, symbol, fontsize=8.5, color=INK)
    if not needs_own_z(adapter) and degree > 1 and limit < 0.95:
        root = axes.secondary_xaxis("top", functions=(lambda g: abs(g) ** (1 / degree), lambda z: abs(z) ** degree))
        root.xaxis.set_major_locator(_locator())
        root.tick_params(labelsize=7, colors=INK, length=2, pad=1.5)
        page.text(MARGIN, page.y - 0.15, "$z$", fontsize=8.5, color=INK)
    note = (
        "One row per block, one column per output dimension. White is 1, the frozen model; red amplifies, blue damps.\n"
        "The scale ends at the 99 % quantile of the distance from 1. Grey bars: root mean square distance per row."
    )
    page.text(MARGIN + 4.9, page.y - 0.13, note, fontsize=8, color=FAINT, linespacing=1.5)


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
