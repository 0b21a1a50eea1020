"""Kernels as one HTML file that needs no network: zoom, and read off values and texts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from propulsion_tools.inspection.figure_page import FONT, Page, PagePanel, Section, colour_scale
from propulsion_tools.inspection.palette import DIVERGING, EDGE, FAINT, FROM_ZERO
from propulsion_tools.theory.kernel_figure import KernelSnapshot, Picture, names_with_room, pictures, runs, summary

NOTE = (
    "Each row and each column is one sample, ordered by label. Blue and red: negative and positive; the scale ends at "
    "the 99 % quantile. Point at a cell to read its value, drag to zoom, double-click to zoom out."
)
NARROWEST = 300  # pixels
ROOM = 0.05  # of a name, as a share of the picture


def kernels_page(
    snapshots: Sequence[KernelSnapshot], method: str, labels: Sequence[str], samples: Sequence[str], title: str
) -> bytes:
    """The kernels, a section for each snapshot, as the content of an HTML file.

    Args:
        snapshots: What to draw.
        method: The name of the tuned kernel's method.
        labels: The label of each sample, in the kernels' order.
        samples: What to show of each sample when pointed at: its label and its text.
        title: Stands above all.
    """
    named = [f"{number}: {html.escape(sample)}" for number, sample in enumerate(samples)]
    sections = [
        Section(
            [_panel(picture, named, labels) for picture in pictures(snapshot, method)],
            snapshot.title,
            summary(snapshot),
        )
        for snapshot in snapshots
    ]
    return Page(f"propulsion ntk: {title}", title, (NOTE,), sections, NARROWEST).content()


def _panel(picture: Picture, samples: Sequence[str], labels: Sequence[str]) -> PagePanel:
    limit = picture.limit
    heat = {
        "type": "heatmap",
        "z": picture.values.astype(np.float32),
        "x": list(samples),
        "y": list(samples),
        "colorscale": colour_scale(FROM_ZERO if picture.is_distance else DIVERGING),
        "zmin": 0 if picture.is_distance else -limit,
        "zmax": limit,
        "hovertemplate": "%{z:.5g}<br>%{y}<br>%{x}<extra></extra>",
        "colorbar": {"thickness": 9, "outlinewidth": 0, "exponentformat": "power", "x": 1.02, "xpad": 0, "ypad": 0},
    }
    shown = names_with_room(labels, ROOM * len(labels))
    names = {
        "tickvals": [samples[int(middle)] for _, middle in shown],
        "ticktext": [html.escape(name) for name, _ in shown],
    }
    axis = {"type": "category", "showgrid": False, "zeroline": False, "ticks": "", **names}
    ends = [start - 0.5 for _, start, _ in runs(labels)[1:]] if len(shown) == len(runs(labels)) else []
    line = {"color": EDGE, "width": 1}
    full = (-0.5, len(labels) - 0.5)
    shapes = [{"type": "line", "x0": end, "x1": end, "y0": full[0], "y1": full[1], "line": line} for end in ends]
    shapes += [{"type": "line", "y0": end, "y1": end, "x0": full[0], "x1": full[1], "line": line} for end in ends]
    layout: dict[str, Any] = {
        "font": {"family": FONT, "size": 11, "color": FAINT},
        "plot_bgcolor": "white",
        "margin": {"t": 6, "b": 78, "l": 82, "r": 52},
        "shapes": shapes,
        "xaxis": {**axis, "tickangle": -90},
        "yaxis": {**axis, "autorange": "reversed"},
    }
    return PagePanel(picture.name, "", {"": [heat]}, layout)
