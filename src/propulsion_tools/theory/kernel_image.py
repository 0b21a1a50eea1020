"""Kernels as a PNG or SVG like the paper's figure 6."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propulsion_tools.inspection.figure_files import figure_bytes
from propulsion_tools.inspection.palette import DIVERGING, EDGE, FAINT, FROM_ZERO, INK
from propulsion_tools.theory.kernel_figure import KernelSnapshot, Picture, names_with_room, pictures, runs, summary

# Inches: of a picture, of its place, above the first line, above a picture; of a letter of a name, and of its height.
SIZE, PLACE, HEAD, ABOVE = 2.05, 2.72, 0.58, 0.55
LETTER, NAME = 0.058, 0.125


def draw_kernels(
    snapshots: Sequence[KernelSnapshot], method: str, labels: Sequence[str], title: str, kind: str
) -> bytes:
    """Draw the kernels, a line for each snapshot.

    Args:
        snapshots: What to draw.
        method: The name of the tuned kernel's method.
        labels: The label of each sample, in the kernels' order.
        title: Stands above all.
        kind: "png" or "svg".

    Returns:
        The file's content.
    """
    names = names_with_room(labels, NAME / SIZE * len(labels))
    longest = LETTER * max((len(name) for name, _ in names), default=1)
    margin, line = max(0.62, 0.2 + longest), ABOVE + SIZE + max(0.45, 0.2 + longest)
    width, height = margin + 4 * PLACE - 0.1, HEAD + line * len(snapshots)
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.25 / height, title, fontsize=11, weight="bold", color=INK, va="center")
    for number, snapshot in enumerate(snapshots):
        top = HEAD + line * number
        figure.text(0.012, 1 - top / height, snapshot.title, fontsize=9, weight="bold", color=INK, va="center")
        figure.text(1.7 / width, 1 - top / height, summary(snapshot), fontsize=8.5, color=FAINT, va="center")
        for column, picture in enumerate(pictures(snapshot, method)):
            left, bottom = margin + PLACE * column, height - (top + ABOVE + SIZE)
            axes = figure.add_axes((left / width, bottom / height, SIZE / width, SIZE / height))
            bar = figure.add_axes(((left + SIZE + 0.06) / width, bottom / height, 0.08 / width, SIZE / height))
            _draw(figure, axes, bar, picture)
            _name(axes, labels, names, beside=column == 0)
    return figure_bytes(figure, kind)


def _draw(figure: Any, axes: Any, bar: Any, picture: Picture) -> None:
    limit = picture.limit
    colours = (FROM_ZERO.lower(), 0) if picture.is_distance else (DIVERGING, -limit)
    image = axes.imshow(picture.values, cmap=colours[0], vmin=colours[1], vmax=limit, interpolation="nearest")
    axes.set_title(f"{picture.symbol}   {picture.name}", fontsize=8.5, color=INK, loc="left", pad=5)
    axes.tick_params(length=0, labelsize=7, colors=FAINT, pad=2)
    for side in axes.spines.values():
        side.set(color=EDGE, linewidth=0.5)
    scale = figure.colorbar(image, cax=bar)
    scale.outline.set_linewidth(0)
    bar.tick_params(labelsize=6.5, colors=FAINT, length=2, pad=1)
    bar.yaxis.get_offset_text().set_fontsize(6.5)
    scale.formatter.set_powerlimits((-2, 3))
    scale.update_ticks()


def _name(axes: Any, labels: Sequence[str], names: Sequence[tuple[str, float]], beside: bool) -> None:
    """Lines between the labels, if there is room for all names, and the names: below and, at the first, beside."""
    stretches = runs(labels)
    for _, start, _ in stretches[1:] if len(names) == len(stretches) else ():
        axes.axhline(start - 0.5, color=INK, linewidth=0.5)
        axes.axvline(start - 0.5, color=INK, linewidth=0.5)
    middles, words = [middle for _, middle in names], [name for name, _ in names]
    room = SIZE * min((right - left for left, right in itertools.pairwise(middles)), default=len(labels)) / len(labels)
    upright = room < LETTER * max(map(len, words), default=0) + 0.1
    axes.set_xticks(middles, words, rotation=90 if upright else 0)
    axes.set_yticks(middles, words if beside else [""] * len(words))
