"""The report's figures: what a score costs, how training went, and what each row costs."""

from __future__ import annotations

from propulsion_tools.records import RunRecord
from propulsion_tools.report.cost_figures import bars, dots, memory
from propulsion_tools.report.drawing import Figure, Trace, looks, trace
from propulsion_tools.report.score_figures import score_against_memory, score_against_parameters
from propulsion_tools.report.summary import Column, Summary, scale_of
from propulsion_tools.training.loss_curve import running_mean

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
    tries = zip(result.selection, summary.choice(row, column).tried, strict=True)
    chosen = [outcome for (_, outcome), item in tries if item.is_chosen]
    for record in (*(record for _, record in result.records[:1]), *chosen):
        history = record.history if isinstance(record, RunRecord) else {}
        points = [p for p in history.get(name, []) if p[0] <= FIRST_STEPS and p[1] is not None]
        if len(points) > 1:
            return points
    return []
