"""What a report says, whatever writes it: its opening sentences, and tables of cells with a mark and a link."""

from __future__ import annotations

from dataclasses import dataclass, field

from propulsion_tools.compare.run_folders import Failure
from propulsion_tools.records import RunRecord
from propulsion_tools.report.rerun_commands import anchor
from propulsion_tools.report.statistics import Mean
from propulsion_tools.report.summary import Column, Score, Summary, scale_of
from propulsion_tools.training.console import size

DASH = "–"


@dataclass(frozen=True)
class TableCell:
    """One cell.

    Attributes:
        text: What it says.
        value: What it is sorted by; None sorts last.
        mark: 1 for the best, 2 for the second best.
        link: The anchor of the commands behind it.
        below: A second, smaller line.
        hint: Shown when pointed at.
        kind: "good" or "bad" where a difference is clear.
    """

    text: str
    value: float | None = None
    mark: int | None = None
    link: str = ""
    below: str = ""
    hint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, each after the label of its row."""

    name: str
    title: str
    caption: str
    headings: list[str]
    rows: list[tuple[str, list[TableCell]]] = field(default_factory=list)


def title(summary: Summary) -> str:
    """The grid's title, or its name."""
    return summary.grid.title or f"Comparison {summary.grid.name}"


def facts(summary: Summary) -> list[str]:
    """What was compared, how far it has come, where it ran, and what the grid's author says about it."""
    grid = summary.grid
    records = [record for row in summary.rows for record in summary.records(row)]
    sentences = [f"{_models(records)}{grid.shape[0].upper()}{grid.shape[1:]}."]
    left = [f"{summary.missing} final runs are still missing"] if summary.missing else []
    left += [f"{len(summary.failures)} runs failed, see below"] if summary.failures else []
    if left:
        sentences.append(f"{' and '.join(left)}.")
    return [*sentences, *grid.notes, *_where(records)]


def _models(records: list[RunRecord]) -> str:
    models = dict.fromkeys(record.spec.model_name_or_path for record in records)
    return f"Base model {', '.join(models)}. " if models else ""


def _threads(record: RunRecord) -> str:
    count = record.environment["threads"]
    return "1 thread" if count == 1 else f"{count} threads"


def _where(records: list[RunRecord]) -> list[str]:
    places = dict.fromkeys(f"{record.environment.get('device', 'unknown')}, {_threads(record)}" for record in records)
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record.environment["versions"].items()) for record in records
    )
    return [f"Ran on {'; '.join(places)}; {'; '.join(versions)}."] if records else []


def shown(mean: Mean, metric: str = "") -> str:
    """Mean and standard deviation, out of 100, with one decimal."""
    scale = scale_of(metric)
    spread = "" if mean.std is None else f" ± {scale * mean.std:.1f}"
    return f"{scale * mean.mean:.1f}{spread}"


def tables(summary: Summary) -> list[Table]:
    """All of them, without those that have nothing to say."""
    makers = (scores_table, differences_table, costs_table, rates_table, failures_table)
    return [table for make in makers if (table := make(summary)).rows]


def scores_table(summary: Summary) -> Table:
    """Like the paper's tables 1 to 3."""
    seeds = len(summary.grid.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    paper = any(summary.paper(row, column) for row in summary.rows for column in summary.columns)
    caption = (
        f"Scores on the validation split, out of 100, {spread}. Best in bold, second best underlined; full "
        "fine-tuning is left out of that, as in the paper. Parameters are those of the adapter, without the head."
        + (" Below ours, the paper's number." if paper else "")
    )
    headings = ["trained parameters", *(_heading(column) for column in summary.columns)]
    with_average = len(summary.columns) > 1
    rows = []
    for row in summary.rows:
        cells = [_parameters(summary, row), *(_score(summary, row, column) for column in summary.columns)]
        rows.append((row, [*cells, _average(summary, row)] if with_average else cells))
    return Table("scores", "Scores", caption, headings + (["average"] if with_average else []), rows)


def _heading(column: Column) -> str:
    return f"{column.name} {column.metric.replace('_', ' ')}"


def _parameters(summary: Summary, row: str) -> TableCell:
    cost, link = summary.costs(row), anchor(summary, row, summary.columns[0])
    return TableCell(f"{cost.adapter:,}", cost.adapter, link=link) if cost else TableCell(DASH)


def _score(summary: Summary, row: str, column: Column) -> TableCell:
    score = summary.scores[row, column]
    link = anchor(summary, row, column)
    if score.main is None:
        failures = score.result.failures
        hint = failures[-1][1].error if failures else "not run yet"
        return TableCell("failed" if failures else DASH, link=link, hint=hint)
    notes = [f"{name.replace('_', ' ')} {scale_of(name) * mean.mean:.1f}" for name, mean in score.others.items()]
    if (paper := summary.paper(row, column)) is not None:
        notes.append(f"paper {paper:.2f}")
    if missing := len(summary.grid.seeds) - score.main.count:
        notes.append(f"{missing} of {len(summary.grid.seeds)} seeds missing")
    return TableCell(
        shown(score.main, column.metric), score.main.mean, score.rank, link, " · ".join(notes), _rate_hint(score)
    )


def _rate_hint(score: Score) -> str:
    return f"learning rate {score.result.rate:.3g}" if score.result.rate else ""


def _average(summary: Summary, row: str) -> TableCell:
    mean = summary.average(row)
    link = anchor(summary, row, summary.columns[0])
    return TableCell(shown(mean), mean.mean, summary.average_ranks.get(row), link) if mean else TableCell(DASH)


def differences_table(summary: Summary) -> Table:
    """Each row against its best peer, by paired bootstrap."""
    caption = (
        "Points that each method is ahead of (+) or behind (−) the best of the others, with the 95 % interval of a "
        "paired bootstrap over the rows of the validation split (1,000 resamples, the same for all). Full fine-tuning "
        "is nobody's peer, and forms of Propulsion are compared with the best that is none. Coloured where the "
        "interval leaves out 0; with this many comparisons, a few do so by chance."
    )
    rows = []
    for row in summary.rows:
        cells = [_difference(summary, row, column) for column in summary.columns]
        if any(cell.value is not None for cell in cells):
            rows.append((row, cells))
    return Table("peers", "Against the best peer", caption, [column.name for column in summary.columns], rows)


def _difference(summary: Summary, row: str, column: Column) -> TableCell:
    gap = summary.scores[row, column].difference
    if gap is None:
        return TableCell(DASH)
    sign = 1 if column.greater_is_better else -1
    kind = ("good" if sign * gap.mean > 0 else "bad") if gap.is_clear else ""
    scale = scale_of(column.metric)
    interval = f"[{scale * gap.low:+.1f}, {scale * gap.high:+.1f}]".replace("-", "−")
    text = f"{scale * gap.mean:+.1f}".replace("-", "−")
    return TableCell(
        f"{text} {interval}",
        gap.mean,
        link=anchor(summary, row, column),
        below=f"{gap.peer}, p {_p(gap.p)}",
        kind=kind,
    )


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"= {value:.2f}"


def costs_table(summary: Summary) -> Table:
    """What each row costs; figures 3 (right) and 4 as numbers."""
    caption = (
        "Medians over the final runs. Training is the time in optimizer steps, without evaluation. Peak memory is the "
        "largest resident set of the process while training (on a GPU, what was allocated); training memory is its "
        "growth since before the first step: gradients, optimizer states and activations."
    )
    headings = ["adapter", "head", "training", "one step", "peak memory", "weights", "training memory", "file"]
    rows = []
    for row in summary.rows:
        if cost := summary.costs(row):
            first = next(column for column in summary.columns if summary.result(row, column).records)
            link = anchor(summary, row, first)
            cells = [
                TableCell(f"{cost.adapter:,}", cost.adapter),
                TableCell(f"{cost.head:,}", cost.head),
                TableCell(seconds(cost.train_seconds), cost.train_seconds),
                TableCell(f"{1000 * cost.step_seconds:.0f} ms", cost.step_seconds),
                *(
                    TableCell(size(count), count)
                    for count in (cost.peak_bytes, cost.weight_bytes, cost.training_bytes, cost.adapter_bytes)
                ),
            ]
            rows.append((row, [TableCell(c.text, c.value, link=link) for c in cells]))
    return Table("costs", "Costs", caption, headings, rows)


def seconds(value: float) -> str:
    """Seconds, or minutes from 100 s on."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"


def rates_table(summary: Summary) -> Table:
    """Which learning rates were tried, and which was chosen."""
    caption = (
        f"Each rate was trained once and scored on {summary.selection_fraction:.0%} of the training rows, which were "
        "set aside; the chosen one is bold. The validation split had no part in this."
    )
    rows = []
    for row in summary.rows:
        cells = [_tried(summary, row, column) for column in summary.columns]
        if any(cell.below for cell in cells):
            rows.append((row, cells))
    return Table("rates", "Learning rates", caption, [column.name for column in summary.columns], rows)


def _tried(summary: Summary, row: str, column: Column) -> TableCell:
    result = summary.result(row, column)
    parts = []
    for run, outcome in result.selection:
        value = _selection_score(outcome, column)
        parts.append(
            f"{run.spec.learning_rate:.2g}: {DASH if value is None else f'{scale_of(column.metric) * value:.1f}'}"
        )
    chosen = f"{result.rate:.2g}" if result.rate else DASH
    return TableCell(chosen, result.rate, 1, anchor(summary, row, column), " · ".join(parts))


def _selection_score(outcome: RunRecord | Failure | None, column: Column) -> float | None:
    return next(iter(outcome.metrics.values()), {}).get(column.metric) if isinstance(outcome, RunRecord) else None


def failures_table(summary: Summary) -> Table:
    """What failed, and why."""
    caption = "A run that fails is a result too. Start the grid with --retry_failed to run these again."
    rows = [(name, [TableCell(failure.error)]) for name, failure in summary.failures]
    return Table("failures", "Failures", caption, ["why"], rows)
