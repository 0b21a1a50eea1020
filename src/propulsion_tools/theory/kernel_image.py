"""Kernels as a PNG or SVG like the paper's figure 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propulsion_tools.inspection.figure_files import figure_bytes
from propulsion_tools.inspection.palette import DIVERGING, EDGE, FAINT, FROM_ZERO, INK
from propulsion_tools.theory.kernel_figure import KernelSnapshot, Picture, pictures, runs, summary

WIDTH, LINE, HEAD = 11.4, 3.05, 0.58  # inches
MOST_STRETCHES = 12  # of equal labels, for them to be named


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
    height = HEAD + LINE * len(snapshots)
    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.012, 1 - 0.25 / height, title, fontsize=11, weight="bold", color=INK, va="center")
    for number, snapshot in enumerate(snapshots):
        top = HEAD + LINE * number
        figure.text(0.012, 1 - top / height, snapshot.title, fontsize=9, weight="bold", color=INK, va="center")
        figure.text(0.15, 1 - top / height, summary(snapshot), fontsize=8.5, color=FAINT, va="center")
        for column, picture in enumerate(pictures(snapshot, method)):
            left, size = (0.62 + 2.72 * column) / WIDTH, 2.05
            bottom = 1 - (top + 0.55 + size) / height
            axes = figure.add_axes((left, bottom, size / WIDTH, size / height))
            bar = figure.add_axes((left + (size + 0.06) / WIDTH, bottom, 0.08 / WIDTH, size / height))
            _draw(figure, axes, bar, picture, labels, names=column == 0)
    return figure_bytes(figure, kind)


def _draw(figure: Any, axes: Any, bar: Any, picture: Picture, labels: Sequence[str], names: bool) -> None:
    limit = picture.limit
    colours = (FROM_ZERO.lower(), 0) if picture.is_distance else (DIVERGING, -limit)
    image = axes.imshow(picture.values, cmap=colours[0], vmin=colours[1], vmax=limit, interpolation="nearest")
    axes.set_title(f"{picture.symbol}   {picture.name}", fontsize=8.5, color=INK, loc="left", pad=5)
    stretches = runs(labels)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(stretches) <= MOST_STRETCHES:
        for _, start, _ in stretches[1:]:
            axes.axhline(start - 0.5, color=INK, linewidth=0.5)
            axes.axvline(start - 0.5, color=INK, linewidth=0.5)
        middles = [(start + stop - 1) / 2 for _, start, stop in stretches]
        shown = [label if len(label) <= 14 else f"{label[:13]}…" for label, _, _ in stretches]
        axes.set_xticks(middles, shown)
        if names:
            axes.set_yticks(middles, shown, rotation=90, va="center")
    elif names:
        axes.set_ylabel(f"{labels[-1]} ← {labels[0]}", fontsize=7, color=FAINT)
    axes.tick_params(length=0, labelsize=7, colors=FAINT, pad=2)
    for side in axes.spines.values():
        side.set(color=EDGE, linewidth=0.5)
    scale = figure.colorbar(image, cax=bar)
    scale.outline.set_linewidth(0)
    bar.tick_params(labelsize=6.5, colors=FAINT, length=2, pad=1)
    bar.yaxis.get_offset_text().set_fontsize(6.5)
    scale.formatter.set_powerlimits((-2, 3))
    scale.update_ticks()
