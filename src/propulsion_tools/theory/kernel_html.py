"""Kernels as one HTML file that needs no network: zoom, and read off values and texts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from propulsion_tools.inspection.heatmap_html import FONT, with_words
from propulsion_tools.inspection.palette import DIVERGING, FAINT, FROM_ZERO
from propulsion_tools.theory.kernel_figure import KernelSnapshot, Picture, pictures, summary

NOTE = (
    "Each row and each column is one sample, ordered by label. Blue and red: negative and positive; the scale ends at "
    "the 99 % quantile. Hover to read values, drag to zoom, double-click to zoom out."
)
SIZE, GAP, HEAD = 250, 0.075, 90  # pixels; GAP is a share of the width


def kernels_page(snapshots: Sequence[KernelSnapshot], method: str, samples: Sequence[str], title: str) -> bytes:
    """The kernels, a line for each snapshot, as the content of an HTML file.

    Args:
        snapshots: What to draw.
        method: The name of the tuned kernel's method.
        samples: What to show of each sample when hovering: its label and its text.
        title: Stands above all.
    """
    lines = [pictures(snapshot, method) for snapshot in snapshots]
    columns = len(lines[0])
    figure = make_subplots(
        rows=len(lines),
        cols=columns,
        horizontal_spacing=GAP,
        vertical_spacing=0.2 / len(lines),
        subplot_titles=[picture.name for line in lines for picture in line],
    )
    named = [f"{number}: {html.escape(sample)}" for number, sample in enumerate(samples)]
    width = (1 - GAP * (columns - 1)) / columns
    for row, line in enumerate(lines, 1):
        for column, picture in enumerate(line, 1):
            right = (column - 1) * (width + GAP) + width
            domain = figure.layout[f"yaxis{(row - 1) * columns + column if row + column > 2 else ''}"].domain
            figure.add_trace(_heat(picture, named, right, domain), row=row, col=column)
            anchor = figure.get_subplot(row, column).yaxis.anchor
            figure.update_yaxes(scaleanchor=anchor, row=row, col=column)
    figure.update_layout(
        height=HEAD + (SIZE + 70) * len(lines),
        font={"family": FONT, "size": 11, "color": FAINT},
        plot_bgcolor="white",
        margin={"t": 50, "b": 30, "l": 40, "r": 70},
    )
    figure.update_xaxes(
        type="category", showticklabels=False, ticks="", showgrid=False, zeroline=False, constrain="domain"
    )
    figure.update_yaxes(
        type="category",
        showticklabels=False,
        ticks="",
        showgrid=False,
        zeroline=False,
        autorange="reversed",
        constrain="domain",
    )
    page: str = figure.to_html(include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    facts = "".join(f"<br><b>{html.escape(item.title)}</b>: {html.escape(summary(item))}" for item in snapshots)
    return with_words(page, f"propulsion ntk: {title}", title, f"{NOTE}{facts}").encode("utf-8")


def _heat(picture: Picture, samples: Sequence[str], right: float, domain: Sequence[float]) -> Any:
    limit = picture.limit
    return go.Heatmap(
        z=picture.values.astype(np.float32),
        x=list(samples),
        y=list(samples),
        colorscale=FROM_ZERO if picture.is_distance else DIVERGING,
        zmin=0 if picture.is_distance else -limit,
        zmax=limit,
        hovertemplate="%{z:.5g}<br>%{y}<br>%{x}<extra></extra>",
        colorbar={
            "x": right + 0.005,
            "xanchor": "left",
            "y": sum(domain) / 2,
            "len": domain[1] - domain[0],
            "thickness": 9,
            "outlinewidth": 0,
            "exponentformat": "power",
        },
    )
