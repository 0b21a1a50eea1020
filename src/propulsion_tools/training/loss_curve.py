"""The curves of a run: training loss, and the main metric on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from propulsion_tools.inspection.palette import GRID, INK, SERIES
from propulsion_tools.records import RunRecord, atomic

LINE = SERIES[0]
MOST_MARKS = 30
PANEL, HEIGHT = 4.2, 2.9  # inches
LEFT, RIGHT, BOTTOM, TOP = 0.6, 0.25, 0.45, 0.5
"""What is left for the labels around a panel, in inches; to have it measured takes longer than to draw it."""


def draw_curves(record: RunRecord, main_metric: str, file: Path) -> None:
    """Draw two small panels side by side.

    Args:
        record: A finished run, with its history.
        main_metric: What the second panel shows.
        file: Where to write it, .png or .svg.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(name, record.history[name]) for name in ("loss", main_metric) if record.history.get(name)]
    if not panels:
        return
    width = PANEL * len(panels)
    figure = Figure(figsize=(width, HEIGHT), dpi=160)
    FigureCanvasAgg(figure)
    inner = PANEL - LEFT - RIGHT
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - RIGHT / width,
        bottom=BOTTOM / HEIGHT,
        top=1 - TOP / HEIGHT,
        wspace=(LEFT + RIGHT) / inner,
    )
    scored = next(iter(record.metrics), "validation").capitalize()
    last_step = max(points[-1][0] for _, points in panels)
    for axes, (name, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        title = "Training loss" if name == "loss" else f"{scored} {name.replace('_', ' ')}"
        _panel(axes, title, points, last_step)
    spec = record.spec
    figure.suptitle(f"{spec.method} on {spec.task}", x=0.01, ha="left", fontsize=9, color=INK, weight="bold")
    with atomic(file, binary=True) as stream:
        figure.savefig(stream, format=file.suffix.removeprefix("."))


def _panel(axes: Any, title: str, points: list[list[float]], last_step: float) -> None:
    """The values as they were logged, the last of which is the number that the console shows."""
    steps, values = zip(*points, strict=True)
    marks = list(range(len(steps))) if len(steps) <= MOST_MARKS else [-1]
    axes.plot(steps, values, color=LINE, linewidth=1.6, marker="o", markersize=3.5, markevery=marks)
    falls = len(values) > 1 and values[-1] < values[-2]  # then the line is above its end
    axes.annotate(
        f"{values[-1]:.3f}",
        (steps[-1], values[-1]),
        xytext=(0, -7 if falls else 7),
        textcoords="offset points",
        ha="right",
        va="top" if falls else "bottom",
        fontsize=8,
        color=INK,
    )
    axes.set_xlim(0, last_step * 1.03)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title, loc="left", fontsize=8, color=INK)
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK, length=2)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.margins(y=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def running_mean(values: Sequence[float], memory: float = 0.8) -> list[float]:
    """Exponential, corrected for its start."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = memory * total + (1 - memory) * value, memory * weight + (1 - memory)
        means.append(total / weight)
    return means
