"""The report's tables, whatever writes them: cells with a text, a value to sort by, a mark and a link."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace

from propulsion_tools.compare.plan import Run, words
from propulsion_tools.compare.run_folders import Failure
from propulsion_tools.records import RunRecord
from propulsion_tools.report.statistics import Mean
from propulsion_tools.report.summary import Column, Score, Summary, scale_of
from propulsion_tools.training.console import size

DASH = "–"


@dataclass(frozen=True)
class Cell:
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
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)


def anchor(summary: Summary, row: str, column: Column) -> str:
    """Where the commands of a cell stand."""
    return f"run-{summary.rows.index(row) + 1}-{summary.columns.index(column) + 1}"


def shown(mean: Mean, metric: str = "") -> str:
    """Mean and standard deviation, out of 100, with one decimal."""
    scale = scale_of(metric)
    spread = "" if mean.std is None else f" ± {scale * mean.std:.1f}"
    return f"{scale * mean.mean:.1f}{spread}"


def tables(summary: Summary) -> list[Table]:
    """All of them, without those that have nothing to say."""
    made = [scores(summary), differences(summary), costs(summary), rates(summary), failures(summary)]
    return [table for table in made if table.rows]


def scores(summary: Summary) -> Table:
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


def _parameters(summary: Summary, row: str) -> Cell:
    cost = summary.costs(row)
    return (
        Cell(f"{cost.adapter:,}", cost.adapter, link=anchor(summary, row, summary.columns[0])) if cost else Cell(DASH)
    )


def _score(summary: Summary, row: str, column: Column) -> Cell:
    score = summary.scores[row, column]
    link = anchor(summary, row, column)
    if score.main is None:
        failed = score.result.failures
        hint = failed[-1][1].error if failed else "not run yet"
        return Cell("failed" if failed else DASH, link=link, hint=hint)
    notes = [f"{name.replace('_', ' ')} {scale_of(name) * mean.mean:.1f}" for name, mean in score.others.items()]
    if (said := summary.paper(row, column)) is not None:
        notes.append(f"paper {said:.2f}")
    if missing := len(summary.grid.seeds) - score.main.count:
        notes.append(f"{missing} of {len(summary.grid.seeds)} seeds missing")
    return Cell(
        shown(score.main, column.metric), score.main.mean, score.rank, link, " · ".join(notes), _rate_hint(score)
    )


def _rate_hint(score: Score) -> str:
    return f"learning rate {score.result.rate:.3g}" if score.result.rate else ""


def _average(summary: Summary, row: str) -> Cell:
    mean = summary.average(row)
    link = anchor(summary, row, summary.columns[0])
    return Cell(shown(mean), mean.mean, summary.average_ranks.get(row), link) if mean else Cell(DASH)


def differences(summary: Summary) -> Table:
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


def _difference(summary: Summary, row: str, column: Column) -> Cell:
    gap = summary.scores[row, column].difference
    if gap is None:
        return Cell(DASH)
    sign = 1 if column.greater_is_better else -1
    kind = ("good" if sign * gap.mean > 0 else "bad") if gap.is_clear else ""
    scale = scale_of(column.metric)
    interval = f"[{scale * gap.low:+.1f}, {scale * gap.high:+.1f}]".replace("-", "−")
    text = f"{scale * gap.mean:+.1f}".replace("-", "−")
    return Cell(
        f"{text} {interval}",
        gap.mean,
        link=anchor(summary, row, column),
        below=f"{gap.peer}, p {_p(gap.p)}",
        kind=kind,
    )


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"= {value:.2f}"


def costs(summary: Summary) -> Table:
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
                Cell(f"{cost.adapter:,}", cost.adapter),
                Cell(f"{cost.head:,}", cost.head),
                Cell(seconds(cost.train_seconds), cost.train_seconds),
                Cell(f"{1000 * cost.step_seconds:.0f} ms", cost.step_seconds),
                *(
                    Cell(size(count), count)
                    for count in (cost.peak_bytes, cost.weight_bytes, cost.training_bytes, cost.adapter_bytes)
                ),
            ]
            rows.append((row, [Cell(c.text, c.value, link=link) for c in cells]))
    return Table("costs", "Costs", caption, headings, rows)


def seconds(value: float) -> str:
    """Seconds, or minutes from 100 s on."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"


def rates(summary: Summary) -> Table:
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


def _tried(summary: Summary, row: str, column: Column) -> Cell:
    result = summary.result(row, column)
    parts = []
    for run, ended in result.selection:
        value = _selection_score(ended, column)
        parts.append(
            f"{run.spec.learning_rate:.2g}: {DASH if value is None else f'{scale_of(column.metric) * value:.1f}'}"
        )
    chosen = f"{result.rate:.2g}" if result.rate else DASH
    return Cell(chosen, result.rate, 1, anchor(summary, row, column), " · ".join(parts))


def _selection_score(ended: RunRecord | Failure | None, column: Column) -> float | None:
    return next(iter(ended.metrics.values()), {}).get(column.metric) if isinstance(ended, RunRecord) else None


def failures(summary: Summary) -> Table:
    """What failed, and why."""
    caption = "A run that fails is a result too. Start the grid with --retry_failed to run these again."
    rows = [(name, [Cell(failed.error)]) for name, failed in summary.failures]
    return Table("failures", "Failures", caption, ["why"], rows)


def commands(summary: Summary) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """For each cell of the grid its anchor, its title, and the runs behind it with the command of each."""
    made = []
    for row in summary.rows:
        for column in summary.columns:
            result = summary.result(row, column)
            runs = [run for run, _ in (*result.final, *result.selection)]
            made.append((anchor(summary, row, column), f"{row} · {column.name}", [(str(r), command(r)) for r in runs]))
    return made


def command(run: Run) -> str:
    """The command that reproduces a run, beside it and not over it."""
    return shlex.join(["propulsion", "train", *words(replace(run.spec, output_dir=f"{run.folder}-again"))])
