"""How often inner products change by ε or more, beside the lemma's bound: random weights, and a model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from propulsion_tools.inspection.figure_files import figure_bytes
from propulsion_tools.inspection.figure_style import quiet_axes, titled_figure
from propulsion_tools.inspection.palette import FAINT, INK, SERIES
from propulsion_tools.inspection.places import KINDS, place_of
from propulsion_tools.theory.projection import EPSILONS, Distortion, bound, frequency

LOWEST = 1e-4


def draw_projection(random: Sequence[Distortion], layers: Sequence[Distortion], title: str, kind: str) -> bytes:
    """Draw three panels: Gaussian matrices, the model's weights, and these at their best scale.

    Args:
        random: Gaussian matrices of growing width.
        layers: The model's layers.
        title: Stands above all.
        kind: "png" or "svg".

    Returns:
        The file's content.
    """
    figure = titled_figure((11.4, 3.9), title)
    left, middle, right = figure.subplots(1, 3, sharey=True)
    for colour, item in zip(SERIES, random, strict=False):
        _curve(left, item.raw, colour, f"d = {item.width:,}")
        left.plot(EPSILONS, bound(EPSILONS, item.width), color=colour, linestyle=":", linewidth=1.3)
    _frame(left, "random Gaussian weights")
    kinds = [kind for kind in KINDS.values() if any(_kind(item) == kind for item in layers)]
    kinds += sorted({_kind(item) for item in layers} - set(kinds))
    for axes, name, scaled in (
        (middle, "the model's weights", False),
        (right, "the same, each at its best scale", True),
    ):
        for item in layers:
            colour = SERIES[kinds.index(_kind(item)) % len(SERIES)]
            known = axes.get_legend_handles_labels()[1]
            label = _kind(item) if _kind(item) not in known else None
            _curve(axes, item.scaled if scaled else item.raw, colour, label)
        for width in sorted({item.width for item in layers}):
            _bound(axes, width)
        _frame(axes, name)
    left.set_ylabel("share of pairs with an error of ε or more", fontsize=7.5, color=FAINT)
    return figure_bytes(figure, kind)


def _kind(item: Distortion) -> str:
    return place_of(item.name).kind


def _curve(axes: Any, errors: Any, colour: str, label: str | None) -> None:
    axes.plot(EPSILONS, frequency(errors, EPSILONS), color=colour, linewidth=1.2, alpha=0.8, label=label)


def _bound(axes: Any, width: int) -> None:
    """The bound as a dotted line, with its d where the line ends."""
    limits = bound(EPSILONS, width)
    axes.plot(EPSILONS, limits, color=INK, linestyle=":", linewidth=1.4)
    last = max(int((limits > 1.5 * LOWEST).sum()) - 1, 0)
    axes.annotate(
        f"d = {width:,}",
        (EPSILONS[last], limits[last]),
        xytext=(-3, 0),
        textcoords="offset points",
        fontsize=7,
        color=INK,
        ha="right",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _frame(axes: Any, name: str) -> None:
    axes.set_yscale("log")
    axes.set_ylim(LOWEST, 30)  # room for the legend
    axes.set_yticks([10.0**power for power in range(-4, 1)])
    axes.set_xlim(0, EPSILONS[-1])
    axes.set_title(f"{name} (dotted: the bound)", fontsize=8.5, color=INK, loc="left")
    axes.set_xlabel("ε", fontsize=8, color=FAINT)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="upper right")
    quiet_axes(axes)
