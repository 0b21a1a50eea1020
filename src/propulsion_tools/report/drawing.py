"""What the report's figures have in common: their form, and a look for each row that is the same in all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from propulsion_tools.report.summary import Summary

# Okabe and Ito's colours, which every kind of colour vision tells apart; Propulsion has one to itself.
PROPULSION, OTHERS = "#D55E00", ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8A8A8A")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon", "triangle-down", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY, INK = "#8A8A8A", "#444444"
Trace = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure, in the words of plotly.

    Attributes:
        name: Its anchor.
        title: Above it.
        caption: Below it.
        layout: Of plotly.
        variants: Traces by what can be chosen, a task for example; mostly one.
        height: In pixels.
        is_wide: Whether it takes the whole width.
    """

    name: str
    title: str
    caption: str
    layout: dict[str, Any]
    variants: dict[str, list[Trace]]
    height: int = 380
    is_wide: bool = False


@dataclass(frozen=True)
class Look:
    """The same for a row in every figure."""

    colour: str
    symbol: str
    dash: str


def looks(summary: Summary) -> dict[str, Look]:
    """A colour for each row, and a symbol and a dash that tell rows of one colour apart."""
    by_row: dict[str, Look] = {}
    counts = {True: 0, False: 0}
    alone = all(map(summary.is_propulsion, summary.rows))  # then there is nothing to tell it from
    for row in summary.rows:
        ours = summary.is_propulsion(row) and not alone
        number, counts[ours] = counts[ours], counts[ours] + 1
        colour = PROPULSION if ours else OTHERS[number % len(OTHERS)]
        turn = number if ours else number // len(OTHERS)
        by_row[row] = Look(colour, SYMBOLS[number % len(SYMBOLS)], DASHES[turn % len(DASHES)])
    return by_row


def trace(x: list[Any], y: list[float], name: str, **more: Any) -> Trace:
    return {"type": "scatter", "x": x, "y": y, "name": name, **more}


def interval(reach: Sequence[tuple[float, float] | None], colour: str) -> dict[str, Any] | None:
    """Error bars; none where no point has one.

    Args:
        reach: How far each goes down (or to the left) and up (or to the right).
        colour: Of the bars.
    """
    if not any(reach):
        return None
    down, up = zip(*(ends or (0.0, 0.0) for ends in reach), strict=True)
    arrays = {"array": list(up), "arrayminus": list(down), "symmetric": False}
    return {"type": "data", **arrays, "color": colour, "thickness": 1.2, "width": 4}


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis from a power of ten to another, so that it always has numbers."""
    logs = [math.log10(value) for value in values if value > 0] or [0.0]
    low, high = math.floor(min(logs) - 0.05), math.ceil(max(logs) + 0.05)
    minor = {"ticks": "outside", "ticklen": 3, "dtick": "D1", "showgrid": False}
    return {"type": "log", "range": [low, high], "dtick": 1, "tickformat": "~s", "minor": minor}


def all_the_same(values: Mapping[str, float]) -> bool:
    return len(values) > 1 and len(set(values.values())) == 1
