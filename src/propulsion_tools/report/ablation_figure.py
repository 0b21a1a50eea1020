"""The figure of an ablation: the score against what was changed, with what failed shown where it failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from propulsion_tools.report.drawing import DASHES, GREY, OTHERS, SYMBOLS, Figure, Trace, interval, trace
from propulsion_tools.report.summary import Column, Summary, scale_of
from propulsion_tools.training.console import MAJORITY

WIDE, CLOSEST = 50, 1 / 11  # a range that a linear axis would crowd; the least room of a number, as a share of the axis


def ablation_figure(summary: Summary, title: str, axis: str, values: Mapping[str, int | str]) -> Figure:
    """A line for each task over numbers, or dots for each task over words; an × where every seed failed.

    Args:
        summary: The ablation's results.
        title: Above the figure.
        axis: What was changed.
        values: The value of each row.
    """
    place = _Places(values)
    traces = [
        _series(summary, column, values, number, place)
        for number, column in enumerate(summary.columns)
        if any(summary.scores[row, column].main for row in values)
    ]
    traces += _always(summary, values, place) if traces else []
    failed = _failed(summary, values, place)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": f"{axis}{place.note}"}, **place.ticks},
        "yaxis": {"title": {"text": "score"}},
    }
    caption = f"Bars are 95 % intervals over the scored rows and the seeds. {_verdict(summary, list(values))}"
    if failed:
        caption += " An × marks what failed: point at it for the reason."
    return Figure("ablation", title, caption.strip(), layout, {"": [*traces, *failed]}, 400, True)


class _Places:
    """Where values stand on the axis.

    Numbers stand at their distances, or at those of their square roots where they span much, which zero has too.
    Words stand side by side.

    Args:
        values: The value of each row.
    """

    def __init__(self, values: Mapping[str, int | str]) -> None:
        self.are_numbers = all(isinstance(value, int) for value in values.values())
        numbers = [value for value in values.values() if isinstance(value, int) and value > 0]
        self.is_wide = self.are_numbers and bool(numbers) and max(numbers) > WIDE * min(numbers)
        self.values = list(values.values())

    def __getitem__(self, value: int | str) -> float | str:
        if not self.are_numbers:
            return str(value)
        return math.sqrt(float(value)) if self.is_wide else float(value)

    @property
    def note(self) -> str:
        """What the title of the axis has to say of it."""
        return " (square-root scale)" if self.is_wide else ""

    @property
    def ticks(self) -> dict[str, Any]:
        """The axis: numbers where there is room for them, or every word."""
        if not self.are_numbers:
            return {"type": "category", "categoryorder": "array", "categoryarray": [str(v) for v in self.values]}
        span = max(map(float, map(self.__getitem__, self.values))) or 1.0
        shown: list[int | str] = []
        for value in self.values:
            if not shown or float(self[value]) - float(self[shown[-1]]) >= CLOSEST * span:
                shown.append(value)
        return {
            "tickvals": [self[value] for value in shown],
            "ticktext": [str(value) for value in shown],
            "tickangle": 0,
        }


def _verdict(summary: Summary, rows: list[str]) -> str:
    """Who is best, if that can be said."""
    return " ".join(_verdict_on(summary, column, rows) for column in summary.columns)


def _verdict_on(summary: Summary, column: Column, rows: list[str]) -> str:
    best = [row for row in rows if summary.scores[row, column].rank == 1]
    if not best:
        return f"On {column.name} none is better than all others beyond the noise."
    return (
        f"On {column.name} none is behind {', '.join(best)}."
        if len(best) == 1
        else (f"On {column.name} these are level within the noise, and ahead of others: {', '.join(best)}.")
    )


def _series(summary: Summary, column: Column, values: Mapping[str, int | str], number: int, place: _Places) -> Trace:
    scale = scale_of(column.metric)
    means = {row: mean for row in values if (mean := summary.scores[row, column].main)}
    colour = OTHERS[number % len(OTHERS)]
    marker = {"color": colour, "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9}
    line = {"color": colour, "dash": DASHES[number % len(DASHES)]}
    reach = [summary.interval(row, [column]) for row in means]
    return trace(
        [place[values[row]] for row in means],
        [scale * mean.mean for mean in means.values()],
        f"{column.name} {column.metric.replace('_', ' ')}",
        mode="lines+markers" if place.are_numbers else "markers",
        marker=marker,
        line=line,
        error_y=interval(reach, colour),
        customdata=[str(values[row]) for row in means],
        hovertemplate="<b>%{fullData.name}</b><br>%{customdata}: %{y:.1f}<extra></extra>",
        showlegend=True,
    )


def _always(summary: Summary, values: Mapping[str, int | str], place: _Places) -> list[Trace]:
    """What the most frequent answer reaches on each task, where that is known."""
    ends = [place[value] for value in (next(iter(values.values())), list(values.values())[-1])]
    traces = []
    for number, column in enumerate(summary.columns):
        if (most := summary.majority(column)) is not None:
            line = {
                "color": OTHERS[number % len(OTHERS)] if len(summary.columns) > 1 else GREY,
                "dash": "dash",
                "width": 1,
            }
            level = [scale_of(column.metric) * most] * 2
            name = f"{column.name}: {MAJORITY}" if len(summary.columns) > 1 else MAJORITY
            hover = f"{name} %{{y:.1f}}<extra></extra>"
            traces.append(trace(ends, level, name, mode="lines", line=line, hovertemplate=hover, showlegend=True))
    return traces


def _failed(summary: Summary, values: Mapping[str, int | str], place: _Places) -> list[Trace]:
    failures = [
        (place[values[row]], f"{column.name}: {runs[-1][1].error}")
        for row in values
        for column in summary.columns
        if not summary.scores[row, column].main and (runs := summary.result(row, column).failures)
    ]
    if not failures:
        return []
    reached = [
        scale_of(column.metric) * mean.mean
        for row in values
        for column in summary.columns
        if (mean := summary.scores[row, column].main)
    ]
    xs, why = zip(*failures, strict=True)
    look = {"mode": "markers", "marker": {"symbol": "x-thin", "size": 12, "line": {"width": 3, "color": GREY}}}
    ys = [min(reached, default=0.0)] * len(xs)
    return [trace(list(xs), ys, "failed", **look, text=list(why), hovertemplate="%{text}<extra></extra>")]
