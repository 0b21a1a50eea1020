"""How figures of matplotlib look here."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from propulsion_tools.inspection.palette import FAINT, INK


def titled_figure(size: tuple[float, float], title: str, fontsize: float = 11) -> Any:
    """An empty figure with its title at the upper left.

    Args:
        size: Width and height in inches.
        title: Stands above all.
        fontsize: Of the title, in points.
    """
    figure = Figure(figsize=size, dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=fontsize, weight="bold", color=INK)
    return figure


def quiet_axes(axes: Any, labelsize: float = 7) -> None:
    """Small grey labels, and no frame above and on the right."""
    axes.tick_params(labelsize=labelsize, colors=FAINT, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
