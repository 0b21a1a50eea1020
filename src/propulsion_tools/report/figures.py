"""The report's figures: what a score costs, how training went, and what each row costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from propulsion_tools.records import RunRecord
from propulsion_tools.report.drawing import GREY, Figure, Trace, looks, trace
from propulsion_tools.report.summary import Column, Costs, Summary, scale_of
from propulsion_tools.training.loss_curve import running_mean

MEBI = 2**20
FIRST_STEPS = 300


def figures(summary: Summary) -> list[Figure]:
    """All that there is data for."""
    costs = {row: cost for row in summary.rows if (cost := summary.costs(row))}
    made = [
        score_against(summary, costs, "trained parameters, head included", lambda cost: cost.trainable, "parameters"),
        score_against(summary, costs, "peak memory (MiB)", lambda cost: cost.peak_bytes / MEBI, "memory"),
        *curves(summary),
        bars(summary, costs, "Trained parameters of the adapter", lambda cost: cost.adapter, "count", log=True),
        bars(summary, costs, "Training time (s)", lambda cost: cost.train_seconds, "training"),
        bars(summary, costs, "Time of one step (ms)", lambda cost: 1000 * cost.step_seconds, "step"),
        bars(summary, costs, "On disk, head included (KiB)", lambda cost: cost.adapter_bytes / 1024, "disk", log=True),
        memory(summary, costs),
    ]
    return [figure for figure in made if any(figure.variants.values())]


def score_against(
    summary: Summary, costs: dict[str, Costs], what: str, read: Callable[[Costs], float], name: str
) -> Figure:
    """A point for each row, and the Pareto front."""
    points = {row: (read(costs[row]), merit) for row in costs if (merit := summary.merit(row)) is not None}
    best = front(points)
    looked = looks(summary)
    traces: list[Trace] = []
    if len(best) > 1:
        xs, ys = zip(*(points[row] for row in best), strict=True)
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        traces.append(trace(list(xs), list(ys), "Pareto front", mode="lines", line=line, hoverinfo="skip"))
    for row, (x, y) in points.items():
        edge = {"color": GREY, "width": 2 if row in best else 0}
        marker = {"color": looked[row].colour, "symbol": looked[row].symbol, "size": 12, "line": edge}
        hover = f"<b>%{{fullData.name}}</b><br>%{{x:,.0f}} {what}<br>score %{{y:.1f}}<extra></extra>"
        traces.append(trace([x], [y], row, mode="markers", marker=marker, hovertemplate=hover))
    score = "average score" if len(summary.columns) > 1 else f"{summary.columns[0].name} {summary.columns[0].metric}"
    return Figure(
        f"score-{name}",
        f"Score against {'peak memory' if name == 'memory' else 'trained parameters'}",
        f"On the Pareto front, where no other method is both cheaper and better: {', '.join(best)}." if best else "",
        {
            "xaxis": {"title": {"text": what}, **_scale(name)},
            "yaxis": {"title": {"text": score.replace("_", " ")}},
        },
        {"": traces},
        height=340,
    )


def _scale(name: str) -> dict[str, Any]:
    """Parameters span powers of ten, and each has its label."""
    return {"type": "log", "dtick": 1} if name == "parameters" else {}


def front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The rows that no other row beats in both cost and score, cheapest first."""
    best, chosen = float("-inf"), list[str]()
    for row, (_, score) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if score > best:
            best, chosen = score, [*chosen, row]
    return chosen


def curves(summary: Summary) -> list[Figure]:
    """Figure 3, left: loss and score of the first steps, one seed of each row."""
    made = []
    for what, title in (("loss", "Training loss against steps"), ("score", "Score against steps")):
        variants = {column.name: _lines(summary, column, what) for column in summary.columns}
        made.append(
            Figure(
                f"curve-{what}",
                title,
                f"The first {FIRST_STEPS} steps of the first seed"
                + ("; a running mean." if what == "loss" else ", scored while training."),
                {
                    "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
                    "yaxis": {"title": {"text": "training loss" if what == "loss" else "score"}},
                },
                {name: lines for name, lines in variants.items() if lines},
                height=320,
            )
        )
    return made


def _lines(summary: Summary, column: Column, what: str) -> list[Trace]:
    looked, traces = looks(summary), []
    for row in summary.rows:
        points = _history(summary, row, column, column.metric if what == "score" else "loss")
        if len(points) < 2:
            continue
        steps, values = ([point[axis] for point in points] for axis in (0, 1))
        values = [scale_of(column.metric) * value for value in values] if what == "score" else running_mean(values)
        line = {"color": looked[row].colour, "dash": looked[row].dash, "width": 2}
        marker = {"symbol": looked[row].symbol, "size": 7}
        mode = "lines" if what == "loss" else "lines+markers"
        hover = "%{y:.3f}" if what == "loss" else "%{y:.1f}"
        template = f"<b>%{{fullData.name}}</b><br>step %{{x}}: {hover}<extra></extra>"
        traces.append(trace(steps, values, row, mode=mode, line=line, marker=marker, hovertemplate=template))
    return traces


def _history(summary: Summary, row: str, column: Column, name: str) -> list[list[float]]:
    """Of the first final run, or of the run that chose its rate, if only that was scored while it trained."""
    result = summary.result(row, column)
    chosen = [outcome for run, outcome in result.selection if run.spec.learning_rate == result.rate]
    for record in (*(record for _, record in result.records[:1]), *chosen):
        history = record.history if isinstance(record, RunRecord) else {}
        points = [p for p in history.get(name, []) if p[0] <= FIRST_STEPS and p[1] is not None]
        if len(points) > 1:
            return points
    return []


def bars(
    summary: Summary,
    costs: dict[str, Costs],
    title: str,
    read: Callable[[Costs], float],
    name: str,
    log: bool = False,
) -> Figure:
    """Figure 3 of the paper, right: one bar for each row."""
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
