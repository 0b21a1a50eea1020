"""The heat map as one HTML file that needs no network: zoom, read off values, switch between gain and z."""

from __future__ import annotations

from typing import Any

import numpy as np

from propulsion_tools.inspection.figure_page import FONT, Page, PagePanel, Section, colour_scale
from propulsion_tools.inspection.heatmap_panels import Panel, heading, lines_of, panels, reach
from propulsion_tools.inspection.palette import DIVERGING, FAINT
from propulsion_tools.inspection.saved_adapter import SavedAdapter

QUANTITIES = {"gain z^k": "gain", "z": "z"}
NOTE = (
    "Each row is a block, each column an output dimension. White is 1, the frozen model; red amplifies, blue damps; "
    "what is off the scale takes its last colour. Drag to zoom, double-click to zoom out."
)
ROW, SMALLEST, NARROWEST = 17, 46, 480  # pixels
MARGIN = {"t": 4, "b": 24, "l": 70, "r": 8}


def heatmap_page(adapter: SavedAdapter) -> bytes:
    """The gains and z of an adapter, as the content of an HTML file."""
    shown = {word: panels(adapter, quantity) for word, quantity in QUANTITIES.items()}
    limits = {word: reach(some) for word, some in shown.items()}
    alone = [len(line) == 1 for line in lines_of(next(iter(shown.values()))) for _ in line]
    cells = [
        _panel({word: some[place] for word, some in shown.items()}, limits, is_wide)
        for place, is_wide in enumerate(alone)
    ]
    title, facts = heading(adapter)
    name = f"propulsion inspect: {adapter.folder.resolve().name}"
    sections = [Section([_scale(limits)]), Section(cells)]
    return Page(name, title, (facts, NOTE), sections, NARROWEST, list(QUANTITIES)).content()


def _panel(by_word: dict[str, Panel], limits: dict[str, float], is_wide: bool) -> PagePanel:
    """One kind of layer; as high as its quantity with the most rows."""
    first = next(iter(by_word.values()))
    body = max(SMALLEST, ROW * max(len(panel.rows) for panel in by_word.values()))
    layout = {
        "font": {"family": FONT, "size": 11, "color": FAINT},
        "plot_bgcolor": "white",
        "margin": MARGIN,
        "xaxis": {"showgrid": False, "zeroline": False},
        "yaxis": {"type": "category", "autorange": "reversed", "dtick": 1, "ticks": "", "showgrid": False},
    }
    variants = {word: [_heat(panel, QUANTITIES[word], limits[word])] for word, panel in by_word.items()}
    return PagePanel(first.kind, first.ending, variants, layout, body + MARGIN["t"] + MARGIN["b"], is_wide)


def _heat(panel: Panel, quantity: str, limit: float) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": panel.values.astype(np.float32),
        "y": list(panel.rows),
        "ygap": 1,
        "hovertemplate": f"{panel.kind} %{{y}}<br>dimension %{{x}}<br>{quantity} %{{z:.4f}}<extra></extra>",
        **_colours(limit),
    }


def _colours(limit: float) -> dict[str, Any]:
    return {"colorscale": colour_scale(DIVERGING), "zmin": 1 - limit, "zmax": 1 + limit, "showscale": False}


def _scale(limits: dict[str, float]) -> PagePanel:
    """What the colours mean, as a strip with numbers below it."""
    variants = {}
    for word, limit in limits.items():
        values = np.linspace(1 - limit, 1 + limit, 201, dtype=np.float32)
        strip = {"type": "heatmap", "x": values, "z": values[None], "hoverinfo": "skip", **_colours(limit)}
        variants[word] = [strip]
    layout = {
        "font": {"family": FONT, "size": 11, "color": FAINT},
        "margin": {**MARGIN, "t": 2, "r": 24},
        "xaxis": {"showgrid": False, "zeroline": False, "ticks": "outside", "nticks": 9, "fixedrange": True},
        "yaxis": {"visible": False, "fixedrange": True},
    }
    return PagePanel("Scale", "", variants, layout, 44)
