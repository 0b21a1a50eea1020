"""What each row costs: dots for counts that span powers of ten, bars from zero for times and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from propulsion_tools.report.costs import MEBI, Costs
from propulsion_tools.report.drawing import GREY, Figure, Trace, all_the_same, interval, log_axis, looks
from propulsion_tools.report.summary import Summary


def dots(summary: Summary, costs: dict[str, Costs], title: str, read: Callable[[Costs], float], name: str) -> Figure:
    """A dot for each row on a logarithmic axis: a bar would have a length there, which means nothing."""
    looked = looks(summary)
    values = {row: read(cost) for row, cost in costs.items()}
    shown = {row: value for row, value in values.items() if value > 0}
    left_out = [row for row, value in values.items() if value <= 0]
    marker = {"color": [looked[row].colour for row in shown], "size": 10}
    made = {
        "type": "scatter",
        "mode": "markers+text",
        "x": list(shown.values()),
        "y": list(shown),
        "text": [f" {short(value)}" for value in shown.values()],
        "textposition": "middle right",
        "cliponaxis": False,
        "marker": marker,
        "hovertemplate": "%{y}: %{x:,.4~r}<extra></extra>",
        "showlegend": False,
    }
    caption = "A logarithmic scale." + (f" Nothing to show for {', '.join(left_out)}: 0." if left_out else "")
    layout = _bar_layout({**log_axis(list(shown.values())), "showgrid": True})
    layout["yaxis"] |= {"showgrid": True}
    variants: dict[str, list[Trace]] = {"": [made] if shown and not all_the_same(values) else []}
    return Figure(f"bar-{name}", title, caption, layout, variants, _bar_height(shown))


def bars(summary: Summary, costs: dict[str, Costs], title: str, cost: str, scale: float, name: str) -> Figure:
    """Figure 3 of the paper, right: one bar for each row, from zero, with its interval."""
    colours = {row: look.colour for row, look in looks(summary).items()}
    known = {row: of.measured for row, of in costs.items() if of.measured}
    values = {row: scale * getattr(of, cost) for row, of in known.items()}
    widths = {row: (values[row] * of.widths[cost],) * 2 for row, of in known.items() if cost in of.widths}
    made = {
        **_bar(list(values), list(values.values())),
        "marker": {"color": [colours[row] for row in values]},
        "text": [short(value) for value in values.values()],
        "hovertemplate": "%{y}: %{x:,.4~r}<extra></extra>",
        "showlegend": False,
    }
    if widths:
        made["error_x"] = interval([widths.get(row) for row in values], GREY)
        made |= {"textposition": "inside", "insidetextanchor": "start"}
    layout = _bar_layout({"rangemode": "tozero"})
    return Figure(
        f"bar-{name}",
        title,
        f"The median over a row's final runs. {_spread_words(bool(widths))}{summary.where_measured}",
        layout,
        {"": [made] if values else []},
        _bar_height(values),
    )


def _spread_words(known: bool) -> str:
    return (
        "Lines are 95 % intervals, from runs that only the seed tells apart."
        if known
        else "One run each: how much of it is noise is not known."
    )


def memory(summary: Summary, costs: dict[str, Costs]) -> Figure:
    """Figure 4: weights against what training adds to them."""
    known = {row: cost.measured for row, cost in costs.items() if cost.weight_bytes and cost.measured}
    rows = list(known)
    parts = (
        ("weights", "#0072B2", [costs[row].weight_bytes / MEBI for row in rows]),
        ("gradients, optimizer and activations", "#009E73", [known[row].training_bytes / MEBI for row in rows]),
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
    widths = [
        (traces[1]["x"][place] * of.widths.get("training_bytes", 0.0),) * 2 for place, of in enumerate(known.values())
    ]
    if any(map(any, widths)):
        traces[1]["error_x"] = interval(widths, GREY)
    layout = _bar_layout({"rangemode": "tozero"})
    layout |= {"barmode": "stack", "uniformtext": {"minsize": 11, "mode": "hide"}}
    caption = f"The libraries' own memory, the same for all, is left out.{summary.where_measured}"
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
        "xaxis": {"showgrid": True, "zeroline": True, "ticks": "outside", "nticks": 6, **axis},
        "yaxis": {"autorange": "reversed", "automargin": True, "ticks": "", "showgrid": False, "type": "category"},
        "margin": {"r": 56, "t": 8, "b": 36, "l": 8},
        "bargap": 0.35,
    }


def _bar_height(rows: Any) -> int:
    return 58 + 24 * len(rows)


def short(value: float) -> str:
    """Three digits, with a unit of thousands where there are more."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{value / scale:.3g} {unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
