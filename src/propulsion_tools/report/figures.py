"""The report's figures: what a score costs, how training went, and what each row costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from propulsion_tools.records import RunRecord
from propulsion_tools.report.costs import Costs
from propulsion_tools.report.drawing import GREY, INK, Figure, Trace, interval, looks, trace
from propulsion_tools.report.front import Beyond, front, is_a_line
from propulsion_tools.report.summary import Column, Summary, scale_of
from propulsion_tools.training.console import MAJORITY
from propulsion_tools.training.loss_curve import running_mean

MEBI = 2**20
FIRST_STEPS = 300


def figures(summary: Summary) -> list[Figure]:
    """All that there is data for, without those of exact costs that are the same for every row."""
    costs = {row: cost for row in summary.rows if (cost := summary.costs(row))}
    made = [
        score_against_parameters(summary, costs),
        score_against_memory(summary, costs),
        *curves(summary),
        dots(summary, costs, "Trained parameters of the adapter", lambda cost: cost.adapter, "count"),
        bars(summary, costs, "Training time (s)", "train_seconds", 1, "training"),
        bars(summary, costs, "Time of one step (ms)", "step_seconds", 1000, "step"),
        dots(summary, costs, "On disk, head included (KiB)", lambda cost: cost.adapter_bytes / 1024, "disk"),
        memory(summary, costs),
    ]
    return [figure for figure in made if any(figure.variants.values())]


def score_against_parameters(summary: Summary, costs: dict[str, Costs]) -> Figure:
    """The picture that answers the question of a comparison: what the score takes to train."""
    counts = {row: float(cost.trainable) for row, cost in costs.items()}
    layout = _log_axis(list(counts.values()))

    def fewer(one: str, other: str) -> bool:
        return counts[one] < counts[other]

    what = "trained parameters, head included"
    shown = {} if _all_the_same(counts) else counts
    return _scatter(summary, shown, {}, fewer, what, layout, "Score against trained parameters", "parameters")


def score_against_memory(summary: Summary, costs: dict[str, Costs]) -> Figure:
    """The same for memory, which has noise of its own."""
    peaks = {row: cost.peak_bytes / MEBI for row, cost in costs.items()}
    errors = {row: (peaks[row] * width,) * 2 for row, of in costs.items() if (width := of.widths.get("peak_bytes"))}

    def less(one: str, other: str) -> bool:
        return summary.is_cheaper(one, other, "peak_bytes")

    return _scatter(summary, peaks, errors, less, "peak memory (MiB)", {}, "Score against peak memory", "memory")


def _scatter(
    summary: Summary,
    costs: dict[str, float],
    errors: dict[str, tuple[float, float]],
    cheaper: Beyond,
    what: str,
    layout: dict[str, Any],
    title: str,
    name: str,
) -> Figure:
    """A point for each row with its intervals, and the front as far as it is beyond the noise."""
    points = {row: (costs[row], merit) for row in costs if (merit := summary.merit(row)) is not None}
    best = front(points, cheaper, summary.is_better)
    looked = looks(summary)
    traces: list[Trace] = []
    if is_a_line(best, cheaper, summary.is_better):
        xs, ys = zip(*(points[row] for row in best), strict=True)
        line = {"color": GREY, "dash": "dot", "width": 1.5}
        traces.append(trace(list(xs), list(ys), "Pareto front", mode="lines", line=line, hoverinfo="skip"))
    traces += _always(summary, points)
    for row, (x, y) in points.items():
        edge = {"color": INK, "width": 2 if row in best else 0}
        marker = {"color": looked[row].colour, "symbol": looked[row].symbol, "size": 12, "line": edge}
        hover = f"<b>%{{fullData.name}}</b><br>%{{x:,.0f}} {what}<br>score %{{y:.1f}}<extra></extra>"
        bars = {"error_x": interval([errors.get(row)], GREY), "error_y": interval([summary.interval(row)], GREY)}
        traces.append(trace([x], [y], row, mode="markers", marker=marker, hovertemplate=hover, **bars))
    score = "average score" if len(summary.columns) > 1 else f"{summary.columns[0].name} {summary.columns[0].metric}"
    axes = {
        "xaxis": {"title": {"text": what}, **layout},
        "yaxis": {"title": {"text": score.replace("_", " ")}},
        "margin": {"r": 24},
    }
    return Figure(f"score-{name}", title, _front_caption(best, points, name), axes, {"": traces if points else []}, 380)


def _front_caption(best: list[str], points: dict[str, Any], name: str) -> str:
    """What the marks mean, and how far they can be trusted."""
    less = "fewer parameters" if name == "parameters" else f"less {name}"
    bars = "Bars are 95 % intervals over the scored rows and the seeds" + (
        "." if name == "parameters" else "; of memory, over runs that only the seed tells apart."
    )
    if len(points) < 2:
        return bars
    if len(best) == len(points):
        return f"Beyond the noise, no row is beaten by one with {less} or a better score. {bars}"
    return f"Ringed: not beaten, beyond the noise, by a row with {less} or a better score: {', '.join(best)}. {bars}"


def _always(summary: Summary, points: dict[str, tuple[float, float]]) -> list[Trace]:
    """A line at what the most frequent answer reaches, where that is one number."""
    most = summary.majority_merit
    if most is None or not points:
        return []
    ends = [min(x for x, _ in points.values()), max(x for x, _ in points.values())]
    line = {"color": GREY, "dash": "dash", "width": 1}
    hover = f"{MAJORITY}: %{{y:.1f}}<extra></extra>"
    return [trace(ends, [most, most], MAJORITY, mode="lines", line=line, hovertemplate=hover)]


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis from a power of ten to another, so that it always has numbers."""
    logs = [math.log10(value) for value in values if value > 0] or [0.0]
    low, high = math.floor(min(logs) - 0.05), math.ceil(max(logs) + 0.05)
    minor = {"ticks": "outside", "ticklen": 3, "dtick": "D1", "showgrid": False}
    return {"type": "log", "range": [low, high], "dtick": 1, "tickformat": "~s", "minor": minor}


def _all_the_same(values: Mapping[str, float]) -> bool:
    return len(values) > 1 and len(set(values.values())) == 1


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
                + ("." if what == "loss" else ", scored while training."),
                {
                    "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
                    "yaxis": {"title": {"text": "training loss, running mean" if what == "loss" else "score"}},
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
        logged = values
        values = [scale_of(column.metric) * value for value in values] if what == "score" else running_mean(values)
        line = {"color": looked[row].colour, "dash": looked[row].dash, "width": 2}
        marker = {"symbol": looked[row].symbol, "size": 7}
        mode = "lines" if what == "loss" else "lines+markers"
        hover = "logged %{customdata:.3f}, running mean %{y:.3f}" if what == "loss" else "%{y:.1f}"
        template = f"<b>%{{fullData.name}}</b><br>step %{{x}}: {hover}<extra></extra>"
        look = {"mode": mode, "line": line, "marker": marker, "customdata": logged}
        traces.append(trace(steps, values, row, **look, hovertemplate=template))
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
    layout = _bar_layout({**_log_axis(list(shown.values())), "showgrid": True})
    layout["yaxis"] |= {"showgrid": True}
    variants: dict[str, list[Trace]] = {"": [made] if shown and not _all_the_same(values) else []}
    return Figure(f"bar-{name}", title, caption, layout, variants, _bar_height(shown))


def bars(summary: Summary, costs: dict[str, Costs], title: str, cost: str, scale: float, name: str) -> Figure:
    """Figure 3 of the paper, right: one bar for each row, from zero, with its interval."""
    colours = {row: look.colour for row, look in looks(summary).items()}
    values = {row: scale * getattr(of, cost) for row, of in costs.items()}
    widths = {row: (values[row] * of.widths[cost],) * 2 for row, of in costs.items() if cost in of.widths}
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
        f"The median over a row's final runs. {_spread_words(bool(widths))}",
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
    widths = [
        (traces[1]["x"][place] * of.widths.get("training_bytes", 0.0),) * 2
        for place, of in enumerate(costs[row] for row in rows)
    ]
    if any(map(any, widths)):
        traces[1]["error_x"] = interval(widths, GREY)
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
