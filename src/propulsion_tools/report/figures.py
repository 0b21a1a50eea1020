"""The report's figures: what a score costs, with the Pareto front, and those of the other rooms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from propulsion_tools.report.bars import MEBI, bars, memory
from propulsion_tools.report.curves import curves
from propulsion_tools.report.drawing import GREY, Figure, Trace, looks, trace
from propulsion_tools.report.summary import Costs, Summary


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
