"""The figure of an ablation: the score against what was changed, with what failed shown where it failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from propulsion_tools.report.drawing import DASHES, GREY, OTHERS, SYMBOLS, Figure, Trace, trace
from propulsion_tools.report.summary import Column, Summary, scale_of


def ablation_figure(summary: Summary, title: str, axis: str, values: Mapping[str, int | str]) -> Figure:
    """A line for each task over numbers, or bars for each task over words; an × where every seed failed.

    Args:
        summary: The ablation's results.
        title: Above the figure.
        axis: What was changed.
        values: The value of each row.
    """
    numbers = all(isinstance(value, int) for value in values.values())
    traces = [
        _series(summary, column, values, number, numbers)
        for number, column in enumerate(summary.columns)
        if any(summary.scores[row, column].main for row in values)
    ]
    failed = _failed(summary, values)
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": axis},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [str(value) for value in values.values()],
        },
        "yaxis": {"title": {"text": "score"}},
        "barmode": "group",
    }
    if not numbers and traces:
        layout["yaxis"]["range"] = _range(traces)
    caption = (
        "Mean over seeds; the bars of each point are the standard deviation." if len(summary.grid.seeds) > 1 else ""
    )
    if failed:
        caption += " An × marks what failed: point at it for the reason."
    return Figure("ablation", title, caption.strip(), layout, {"": [*traces, *failed]}, 360, True)


def _series(summary: Summary, column: Column, values: Mapping[str, int | str], number: int, numbers: bool) -> Trace:
    scale = scale_of(column.metric)
    means = {row: mean for row in values if (mean := summary.scores[row, column].main)}
    xs, ys = [str(values[row]) for row in means], [scale * mean.mean for mean in means.values()]
    spread = [scale * (mean.std or 0.0) for mean in means.values()]
    colour = OTHERS[number % len(OTHERS)]
    look: dict[str, Any] = {"marker": {"color": colour, "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9}}
    if numbers:
        look |= {"mode": "lines+markers", "line": {"color": colour, "dash": DASHES[number % len(DASHES)]}}
    else:
        look = {"type": "bar", "marker": {"color": colour}, "textposition": "outside"}
        look["text"] = [f"{y:.1f}" for y in ys]
    errors = {"type": "data", "array": spread, "color": colour if numbers else GREY} if any(spread) else None
    name = f"{column.name} {column.metric.replace('_', ' ')}"
    hover = "<b>%{fullData.name}</b><br>%{x}: %{y:.1f}<extra></extra>"
    return trace(xs, ys, name, **look, error_y=errors, hovertemplate=hover, showlegend=True)


def _range(traces: list[Trace]) -> list[float]:
    """Bars from a little below the smallest, with room for the words above the largest."""
    ys = [y for series in traces for y in series["y"]]
    room = max(2.0, 0.25 * (max(ys) - min(ys)))
    return [max(0.0, min(ys) - 2 * room), max(ys) + room]


def _failed(summary: Summary, values: Mapping[str, int | str]) -> list[Trace]:
    failures = [
        (str(values[row]), f"{column.name}: {runs[-1][1].error}")
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
