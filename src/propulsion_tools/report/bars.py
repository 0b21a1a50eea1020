"""What each row costs, as bars: figure 3 of the paper, right, and figure 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from propulsion_tools.report.drawing import Figure, Trace, looks
from propulsion_tools.report.summary import Costs, Summary

MEBI = 2**20


def bars(
    summary: Summary,
    costs: dict[str, Costs],
    title: str,
    read: Callable[[Costs], float],
    name: str,
    log: bool = False,
) -> Figure:
    """One bar for each row."""
    colours = {row: look.colour for row, look in looks(summary).items()}
    values = {row: read(cost) for row, cost in costs.items()}
    if log:
        values = {row: value for row, value in values.items() if value > 0}
    trace = {
        **_bar(list(values), list(values.values())),
        "marker": {"color": [colours[row] for row in values]},
        "text": [short(value) for value in values.values()],
        "hovertemplate": "%{y}: %{x:,.4~r}<extra></extra>",
        "showlegend": False,
    }
    axis = {"type": "log", "dtick": 1} if log else {"rangemode": "tozero"}
    caption = "A logarithmic scale." if log else "The median over a row's final runs."
    return Figure(f"bar-{name}", title, caption, _bar_layout(axis), {"": [trace]}, _bar_height(values))


def memory(summary: Summary, costs: dict[str, Costs]) -> Figure:
    """Figure 4: weights against what training adds to them."""
    rows = [row for row, cost in costs.items() if cost.weight_bytes]
    parts = (
        ("weights", "#0072B2", [costs[row].weight_bytes / MEBI for row in rows]),
        ("gradients, optimizer and activations", "#009E73", [costs[row].training_bytes / MEBI for row in rows]),
    )
    traces = [
        {
            **_bar(rows, values),
            "name": name,
            "marker": {"color": colour},
            "text": [short(value) for value in values],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "hovertemplate": f"%{{y}}: %{{x:,.0f}} MiB {name}<extra></extra>",
        }
        for name, colour, values in parts
    ]
    layout = _bar_layout({"rangemode": "tozero"})
    layout |= {"barmode": "stack", "uniformtext": {"minsize": 11, "mode": "hide"}}
    caption = "The libraries' own memory, the same for all, is left out."
    shown = {"": traces if rows else []}
    return Figure("bar-memory", "Memory while training (MiB)", caption, layout, shown, _bar_height(rows))


def _bar(rows: Sequence[str], values: Sequence[float]) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(values),
        "y": list(rows),
        "textposition": "outside",
        "cliponaxis": False,
        "textangle": 0,
    }


def _bar_layout(axis: dict[str, Any]) -> dict[str, Any]:
    return {
        "xaxis": {"showgrid": False, "showticklabels": False, "zeroline": False, **axis},
        "yaxis": {"autorange": "reversed", "automargin": True, "ticks": "", "showgrid": False, "type": "category"},
        "margin": {"r": 56, "t": 8, "b": 8, "l": 8},
        "bargap": 0.35,
    }


def _bar_height(rows: Any) -> int:
    return 30 + 24 * len(rows)


def short(value: float) -> str:
    """Three digits, with a unit of thousands where there are more."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{value / scale:.3g} {unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
