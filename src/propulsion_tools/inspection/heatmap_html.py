"""The heat map as one HTML file that needs no network: zoom, read off values, switch between gain and z."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from propulsion_tools.inspection.heatmap_panels import Panel, heading, lines_of, panels, reach
from propulsion_tools.inspection.palette import DIVERGING, FAINT, INK
from propulsion_tools.inspection.saved_adapter import SavedAdapter

QUANTITIES = {"gain": "gain z^k", "z": "z"}
SCALES = {"gain": "coloraxis", "z": "coloraxis2"}  # names of plotly
FONT = "system-ui, Segoe UI, Helvetica, Arial, sans-serif"
NOTE = (
    "Each row is a block, each column an output dimension. White is 1, the frozen model; red amplifies, blue damps; "
    "what is off the scale takes its last colour. Drag to zoom, double-click to zoom out."
)

# Pixels; SPACING is a share of the width.
ROW, SMALLEST, GAP, HEAD, FOOT, SPACING = 17, 46, 64, 95, 40, 0.05


def heatmap_page(adapter: SavedAdapter) -> bytes:
    """The gains and z of an adapter, as the content of an HTML file."""
    lines = lines_of(panels(adapter, "gain"))
    figure = _grid(lines, room=max(1, adapter.config.num_vectors / len(adapter.layers[0].gain)))
    places = [(row, column) for row, line in enumerate(lines, 1) for column in range(1, len(line) + 1)]
    for quantity, scale in SCALES.items():
        shown = panels(adapter, quantity)
        for panel, (row, column) in zip(shown, places, strict=True):
            figure.add_trace(_heat(panel, quantity), row=row, col=column)
        figure.update_layout({scale: _colours(quantity, reach(shown))})
    _dress(figure, len(places))
    page: str = figure.to_html(include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    title, facts = heading(adapter)
    name = f"propulsion inspect: {adapter.folder.resolve().name}"
    return with_words(page, name, title, f"{html.escape(facts)}<br>{NOTE}").encode("utf-8")


def with_words(page: str, name: str, title: str, words: str) -> str:
    """A page of plotly with a name for its tab, and a title and words (HTML) above the figure, where they wrap."""
    heading = f'<h1 style="font-size:20px;color:{INK};margin:0 0 6px">{html.escape(title)}</h1>{words}'
    style = f"font:13px/1.5 {FONT};color:{FAINT};margin:16px 30px 0 70px"
    page = page.replace("<head>", f"<head><title>{html.escape(name)}</title>", 1)
    return page.replace("<body>", f'<body><div style="{style}">{heading}</div>', 1)


def _grid(lines: list[list[Panel]], room: float) -> Any:
    heights = [max(SMALLEST, room * ROW * len(line[0].rows)) for line in lines]
    body = sum(heights) + GAP * (len(lines) - 1)
    figure = make_subplots(
        rows=len(lines),
        cols=2,
        specs=[[{}, {}] if len(line) == 2 else [{"colspan": 2}, None] for line in lines],
        row_heights=[height / sum(heights) for height in heights],
        vertical_spacing=GAP / body if len(lines) > 1 else 0,
        horizontal_spacing=SPACING,
        subplot_titles=[_title(panel) for line in lines for panel in line],
    )
    figure.update_layout(height=body + HEAD + FOOT, margin={"t": HEAD, "b": FOOT, "l": 70, "r": 30})
    starts = [start for line in lines for start in (0, (1 + SPACING) / 2)[: len(line)]]
    for note, start in zip(figure.layout.annotations, starts, strict=True):
        note.update(x=start, xanchor="left", font={"size": 13, "color": INK})
    return figure


def _title(panel: Panel) -> str:
    ending = f'  <span style="color:{FAINT};font-size:11px">{html.escape(panel.ending)}</span>' if panel.ending else ""
    return f"<b>{html.escape(panel.kind)}</b>{ending}"


def _heat(panel: Panel, quantity: str) -> Any:
    return go.Heatmap(
        z=panel.values.astype(np.float32),
        y=list(panel.rows),
        coloraxis=SCALES[quantity],
        ygap=1,
        visible=quantity == "gain",
        hovertemplate=f"{panel.kind} %{{y}}<br>dimension %{{x}}<br>{quantity} %{{z:.4f}}<extra></extra>",
    )


def _colours(quantity: str, limit: float) -> dict[str, Any]:
    return {
        "colorscale": DIVERGING,
        "cmin": 1 - limit,
        "cmax": 1 + limit,
        "showscale": quantity == "gain",
        "colorbar": {
            "title": {"text": QUANTITIES[quantity], "side": "top"},
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "ypad": 6,
            "len": 330,
            "lenmode": "pixels",
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def _dress(figure: Any, count: int) -> None:
    buttons = []
    for quantity, label in QUANTITIES.items():
        visible = [other == quantity for other in QUANTITIES for _ in range(count)]
        scales = {f"{scale}.showscale": other == quantity for other, scale in SCALES.items()}
        buttons.append({"label": label, "method": "update", "args": [{"visible": visible}, scales]})
    figure.update_layout(
        font={"family": FONT, "size": 11, "color": FAINT},
        plot_bgcolor="white",
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yanchor": "bottom",
                "pad": {"b": 34},
            }
        ],
    )
    figure.update_yaxes(type="category", autorange="reversed", dtick=1, ticks="", showgrid=False)
    figure.update_xaxes(showgrid=False, zeroline=False)
