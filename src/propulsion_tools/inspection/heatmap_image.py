"""The heat map as PNG or SVG: what the paper's figure 9 shows, for every layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from propulsion_tools.inspection.heatmap_panels import Panel, heading, lines_of, needs_own_z, panels, reach
from propulsion_tools.inspection.palette import BAR, DIVERGING, EDGE, FAINT, INK
from propulsion_tools.inspection.saved_adapter import SavedAdapter

# Inches.
PAGE, MARGIN, GAP, BARS = 12.0, 0.3, 0.35, 0.75
ROW, SMALLEST, TITLE, BELOW = 0.17, 0.34, 0.3, 0.32
HEAD, SCALE = 0.74, 0.8
DOTS_PER_INCH = 220


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

    def text(self, x: float, down: float, text: str, **style: Any) -> None:
        """Text whose left edge is at x and whose middle is `down` below y."""
        style = {"ha": "left", "va": "center", **style}
        self.figure.text(x / PAGE, 1 - (self.y + down) / self.height, text, **style)


def draw_heatmap(adapter: SavedAdapter, kind: str) -> bytes:
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
    figure = Figure(figsize=(PAGE, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    page = Page(figure, height)
    title, facts = heading(adapter)
    page.text(MARGIN, 0.28, title, fontsize=13, weight="bold", color=INK)
    page.text(MARGIN, 0.54, facts, fontsize=8.5, color=FAINT)
    page.y = HEAD
    for quantity, lines in sections.items():
        _section(page, adapter, quantity, lines)
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    return content.getvalue()


def _height(line: Sequence[Panel]) -> float:
    return TITLE + _body(line) + BELOW


def _body(line: Sequence[Panel]) -> float:
    return max(SMALLEST, ROW * len(line[0].rows))


def _section(page: Page, adapter: SavedAdapter, quantity: str, lines: Sequence[Sequence[Panel]]) -> None:
    shown = [panel for line in lines for panel in line]
    limit, furthest = reach(shown), max(float(panel.moved.max()) for panel in shown)
    scale_y, page.y = page.y, page.y + SCALE
    image = None
    for line in lines:
        top, width = page.y, (PAGE - 2 * MARGIN - GAP * (len(line) - 1)) / len(line)
        page.y += TITLE
        for number, panel in enumerate(line):
            image = _panel(page, MARGIN + number * (width + GAP), width, panel, limit, furthest)
        page.y = top + _height(line)
    end, page.y = page.y, scale_y
    _scale(page, image, adapter, quantity, limit)
    page.y = end


def _panel(page: Page, left: float, width: float, panel: Panel, limit: float, furthest: float) -> Any:
    body, labels = _body([panel]), 0.12 + 0.065 * max(map(len, panel.rows))
    heat_width = width - labels - BARS
    # Every n-th dimension where there are more than dots, so that the colours keep their shares.
    step = -(-panel.values.shape[1] // int(heat_width * DOTS_PER_INCH))
    image = _heat(page.axes(left + labels, heat_width, body), panel, limit, step)
    _bars(page.axes(left + width - BARS + 0.06, BARS - 0.06, body), panel, furthest)
    return image


def _heat(axes: Any, panel: Panel, limit: float, step: int) -> Any:
    rows, size = panel.values.shape
    colours = {"cmap": DIVERGING, "vmin": 1 - limit, "vmax": 1 + limit}
    extent = (0, size, rows, 0)
    image = axes.imshow(panel.values[:, ::step], aspect="auto", interpolation="nearest", extent=extent, **colours)
    axes.hlines(range(1, rows), 0, size, color="white", linewidth=0.7)
    axes.set_yticks([row + 0.5 for row in range(rows)], panel.rows)
    axes.set_xticks(sorted({0, size // 4, size // 2, 3 * size // 4, size}))
    axes.tick_params(labelsize=7, colors=FAINT, length=0, pad=2)
    for side in axes.spines.values():
        side.set(color=EDGE, linewidth=0.5)
    above = {"xytext": (0, 4), "textcoords": "offset points", "va": "bottom"}
    kind = axes.annotate(panel.kind, (0, 1), xycoords="axes fraction", fontsize=9, weight="bold", color=INK, **above)
    note = panel.ending if step == 1 else f"{panel.ending} (1 in {step} dimensions shown)"
    axes.annotate(note, (1, 0), xycoords=kind, **above | {"xytext": (6, 0)}, fontsize=8, color=FAINT)
    return image


def _bars(axes: Any, panel: Panel, furthest: float) -> None:
    """How far each row moved, on one scale for all panels of a section."""
    rows = [row + 0.5 for row in range(len(panel.rows))]
    bars = axes.barh(rows, panel.moved, height=0.62, color=BAR)
    axes.bar_label(bars, [f"{value:.2g}" for value in panel.moved], padding=2, fontsize=6, color=FAINT)
    axes.set_xlim(0, 1.7 * furthest or 1)
    axes.set_ylim(len(panel.rows), 0)
    axes.set_axis_off()


def distinct(values: Sequence[float | str]) -> list[str]:
    """The numbers with as few decimals, three at the least, as let no two of them read alike; texts as they are."""
    decimals, labels = 3, list[str]()
    while len(set(labels)) < len(set(values)) and decimals < 16:
        labels = [value if isinstance(value, str) else f"{value:.{decimals}f}" for value in values]
        decimals += 1
    return labels


def _scale(page: Page, image: Any, adapter: SavedAdapter, quantity: str, limit: float) -> None:
    """The colour bar, with z below the gain where it is its root; and what else the picture shows."""
    left, width, height = MARGIN + 0.62, 4.2, 0.15
    pooled = ", pooled" if adapter.config.num_vectors > 1 else ""
    page.y += 0.1
    axes = page.axes(left, width, height)
    bar = page.figure.colorbar(image, cax=axes, orientation="horizontal")
    bar.outline.set_linewidth(0)
    ticks = [1 + tick for tick in MaxNLocator(nbins=6).tick_values(-limit, limit) if abs(tick) <= limit * 1.001]
    labels = [f"{tick:.6g}" for tick in ticks]
    if quantity == "gain" and not needs_own_z(adapter) and (degree := adapter.layers[0].degree[0]) > 1:
        roots = distinct(["" if tick < 0 else tick ** (1 / degree) for tick in ticks])
        labels = [f"{label}\n{root}" for label, root in zip(labels, roots, strict=True)]
        page.text(MARGIN, height + 0.24, "$z$", fontsize=8.5, color=INK)
    bar.set_ticks(ticks, labels=labels)
    axes.tick_params(labelsize=7.5, colors=INK, length=2, pad=2)
    symbol = "gain $z^k$" if quantity == "gain" else "$z$"
    page.text(MARGIN, height + 0.1, symbol.split()[0], fontsize=8.5, color=INK)
    row = f"one gain{pooled}" if quantity == "gain" else "one $z$"
    note = (
        f"Each row is a block, each column an output dimension, each cell {row}. White is 1, the frozen model;\n"
        "red amplifies, blue damps; what is off the scale has its last colour. Grey: root mean square distance from 1."
    )
    page.text(left + width + 0.45, 0.16, note, fontsize=8, color=FAINT, linespacing=1.5)
