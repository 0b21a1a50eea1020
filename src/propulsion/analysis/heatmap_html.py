"""The heat map as one HTML file that needs no network: zoom, read off values, switch between gain and z."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from propulsion.analysis.panels import Panel, heading, lines_of, panels, reach
from propulsion.analysis.saved import SavedAdapter

QUANTITIES = {"gain": "gain z^k", "z": "z"}
INK, FAINT = "#222222", "#6b6b6b"

# Pixels; SPACING is a share of the width.
ROW, SMALLEST, GAP, HEAD, FOOT, SPACING = 17, 46, 64, 165, 40, 0.05


def render(adapter: SavedAdapter, kind: str = "html") -> bytes:
    """Draw the gains and z of an adapter.

    Args:
        adapter: The adapter.
        kind: "html", the only one here; there for the signature of `heatmap.render`.

    Returns:
        The file's content.
    """
    lines = lines_of(panels(adapter, "gain"))
    figure = _grid(lines)
    places = [(row, column) for row, line in enumerate(lines, 1) for column in range(1, len(line) + 1)]
    for number, quantity in enumerate(QUANTITIES, 1):
        shown = panels(adapter, quantity)
        for panel, (row, column) in zip(shown, places, strict=True):
            figure.add_trace(_heat(panel, quantity, number), row=row, col=column)
        figure.update_layout({f"coloraxis{number}": _colours(quantity, reach(shown), is_shown=number == 1)})
    _dress(figure, adapter, len(places))
    page: str = figure.to_html(include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    title = html.escape(f"propulsion inspect: {adapter.folder.resolve().name}")
    return page.replace("<head>", f"<head><title>{title}</title>", 1).encode("utf-8")


def _grid(lines: list[list[Panel]]) -> Any:
    heights = [max(SMALLEST, ROW * len(line[0].rows)) for line in lines]
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


def _heat(panel: Panel, quantity: str, number: int) -> Any:
    return go.Heatmap(
        z=panel.values.astype(np.float32),
        y=list(panel.rows),
        coloraxis=f"coloraxis{number}",
        visible=number == 1,
        hovertemplate=f"{panel.kind} %{{y}}<br>dimension %{{x}}<br>{quantity} %{{z:.4f}}<extra></extra>",
    )


def _colours(quantity: str, limit: float, is_shown: bool) -> dict[str, Any]:
    return {
        "colorscale": "RdBu_r",
        "cmin": 1 - limit,
        "cmax": 1 + limit,
        "showscale": is_shown,
        "colorbar": {
            "title": {"text": QUANTITIES[quantity], "side": "top"},
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yanchor": "bottom",
            "ypad": 42,
            "len": 330,
            "lenmode": "pixels",
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def _dress(figure: Any, adapter: SavedAdapter, count: int) -> None:
    title, facts = heading(adapter)
    note = "One row per block, one column per output dimension. White is 1, the frozen model. Drag to zoom."
    small = f'<span style="font-size:12px;color:{FAINT}">'
    buttons = []
    for number, quantity in enumerate(QUANTITIES, 1):
        scales = {f"coloraxis{other}.showscale": other == number for other in (1, 2)}
        visible = [shown == number for shown in (1, 2) for _ in range(count)]
        buttons.append({"label": QUANTITIES[quantity], "method": "update", "args": [{"visible": visible}, scales]})
    text = f"<b>{html.escape(title)}</b><br>{small}{html.escape(facts)}</span><br>{small}{note}</span>"
    figure.update_layout(
        title={"text": text, "x": 0, "xref": "paper", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 18}},
        title_font={"size": 18, "color": INK},
        font={"family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif", "size": 11, "color": FAINT},
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
