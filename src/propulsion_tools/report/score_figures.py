"""What a score costs: a point for each row with its intervals, and the front as far as it is beyond the noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from propulsion_tools.report.costs import MEBI, Costs
from propulsion_tools.report.drawing import GREY, INK, Figure, Trace, all_the_same, interval, log_axis, looks, trace
from propulsion_tools.report.front import Beyond, front, is_a_line
from propulsion_tools.report.summary import Summary
from propulsion_tools.training.console import MAJORITY


def score_against_parameters(summary: Summary, costs: dict[str, Costs]) -> Figure:
    """The picture that answers the question of a comparison: what the score takes to train."""
    counts = {row: float(cost.trainable) for row, cost in costs.items()}
    layout = log_axis(list(counts.values()))

    def fewer(one: str, other: str) -> bool:
        return counts[one] < counts[other]

    what = "trained parameters, head included"
    shown = {} if all_the_same(counts) else counts
    return _scatter(summary, shown, {}, fewer, what, layout, "Score against trained parameters", "parameters")


def score_against_memory(summary: Summary, costs: dict[str, Costs]) -> Figure:
    """The same for memory, which has noise of its own."""
    known = {row: cost.measured for row, cost in costs.items() if cost.measured}
    peaks = {row: of.peak_bytes / MEBI for row, of in known.items()}
    errors = {row: (peaks[row] * width,) * 2 for row, of in known.items() if (width := of.widths.get("peak_bytes"))}

    def less(one: str, other: str) -> bool:
        return summary.is_cheaper(one, other, "peak_bytes")

    made = _scatter(summary, peaks, errors, less, "peak memory (MiB)", {}, "Score against peak memory", "memory")
    return replace(made, caption=made.caption + summary.where_measured)


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
    most = summary.majority_merit if points else None
    below = most is not None and not _is_near(most, summary, points)
    traces += [] if most is None or below else _always(most, points)
    for row, (x, y) in points.items():
        edge = {"color": INK, "width": 2 if row in best and len(best) < len(points) else 0}
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
    caption = _front_caption(best, points, name, bool(errors))
    if below:
        caption += f" The {MAJORITY} reaches {most:.1f}, below the picture."
    return Figure(f"score-{name}", title, caption, axes, {"": traces if points else []}, 380)


def _front_caption(best: list[str], points: dict[str, Any], name: str, has_noise: bool) -> str:
    """What the marks mean, and how far they can be trusted."""
    less = "fewer parameters" if name == "parameters" else f"less {name}"
    bars = "Bars are 95 % intervals over the scored rows and the seeds."
    if name != "parameters":
        known = f"Those of {name} are over runs that only the seed tells apart."
        bars += f" {known if has_noise else f'The noise of {name} is not known from one run each.'}"
    if len(points) < 2:
        return bars
    if len(best) == len(points):
        return f"Beyond the noise, no row is beaten by one with {less} or a better score. {bars}"
    return f"Ringed: not beaten, beyond the noise, by a row with {less} or a better score: {', '.join(best)}. {bars}"


def _is_near(most: float, summary: Summary, points: dict[str, tuple[float, float]]) -> bool:
    """Whether what the most frequent answer reaches is no further from the rows than they are from each other.

    Further away, the line would press the rows into a corner of the picture.
    """
    bars = {row: summary.interval(row) or (0.0, 0.0) for row in points}
    lowest = min(merit - bars[row][0] for row, (_, merit) in points.items())
    highest = max(merit + bars[row][1] for row, (_, merit) in points.items())
    return len(points) == 1 or lowest - (highest - lowest) <= most


def _always(most: float, points: dict[str, tuple[float, float]]) -> list[Trace]:
    """A line at what the most frequent answer reaches."""
    ends = [min(x for x, _ in points.values()), max(x for x, _ in points.values())]
    line = {"color": GREY, "dash": "dash", "width": 1}
    hover = f"{MAJORITY}: %{{y:.1f}}<extra></extra>"
    return [trace(ends, [most, most], MAJORITY, mode="lines", line=line, hovertemplate=hover)]
