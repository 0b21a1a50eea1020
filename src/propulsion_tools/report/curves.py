"""Figure 3 of the paper, left: loss and score of the first steps."""

from __future__ import annotations

from propulsion_tools.report.drawing import Figure, Trace, looks, trace
from propulsion_tools.report.summary import Column, Summary, scale_of
from propulsion_tools.training.loss_curve import running_mean

FIRST_STEPS = 300


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
    chosen = [ended for run, ended in result.selection if run.spec.learning_rate == result.rate]
    for record in (*(record for _, record in result.records[:1]), *chosen):
        points = [p for p in getattr(record, "history", {}).get(name, []) if p[0] <= FIRST_STEPS and p[1] is not None]
        if len(points) > 1:
            return points
    return []
