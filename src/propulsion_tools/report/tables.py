"""What a report says, whatever writes it: its opening sentences, and tables of cells with a mark and a link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from propulsion_tools.records import RunRecord
from propulsion_tools.records.fields import AUTO
from propulsion_tools.report.costs import Measured, machine_of
from propulsion_tools.report.rerun_commands import anchor
from propulsion_tools.report.statistics import Mean
from propulsion_tools.report.summary import Column, Score, Summary, places_of, scale_of
from propulsion_tools.training.console import MAJORITY, size
from propulsion_tools.training.rate_plan import rates_in_words

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
    foot: list[tuple[str, list[TableCell]]] = field(default_factory=list)
    """Rows that stand below the others however these are sorted."""
    first: str = "method"
    """The heading of the labels."""
    is_text: bool = False
    """Whether the cells hold sentences, and not numbers."""


def title(summary: Summary) -> str:
    """The grid's title, or its name."""
    return summary.grid.title or f"Comparison {summary.grid.name}"


def facts(summary: Summary) -> list[str]:
    """What was compared, how far it has come, where it ran, and what the grid's author says about it."""
    grid = summary.grid
    records = [record for row in summary.rows for record in summary.records(row)]
    sentences = [f"{_models(records)}{grid.shape[0].upper()}{grid.shape[1:]}."]
    missing, failed = summary.missing, len(summary.failures)
    left = [f"{missing} final run{' is' if missing == 1 else 's are'} still missing"] if missing else []
    left += [f"{failed} run{'' if failed == 1 else 's'} failed, see below"] if failed else []
    if left:
        sentences.append(f"{' and '.join(left)}.")
    if joint := sum(record.joint > 0 for record in records):
        shared = "shared a batch with others, and with them time and memory, which are left out"
        sentences.append(f"{joint} of the final runs {shared}.")
    return [*sentences, *grid.notes, *_where(records)]


def _models(records: list[RunRecord]) -> str:
    models = dict.fromkeys(record.spec.model_name_or_path for record in records)
    return f"Base model {', '.join(models)}. " if models else ""


def _where(records: list[RunRecord]) -> list[str]:
    places = dict.fromkeys(map(machine_of, records))
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
        f"Scores on {summary.scored_rows}, out of 100, {spread}. In bold the best and what is not behind it beyond the "
        "noise of the scored rows and the seeds, underlined the same of the others; nobody, where that would be all. "
        "Full fine-tuning is left out of that, as in the paper. Parameters are those of the adapter, without the head. "
        "The last row gives every row of the split its most frequent answer."
        + (" Below ours, the paper's number." if paper else "")
    )
    headings = ["trained parameters", *(_heading(column) for column in summary.columns)]
    with_average = len(summary.columns) > 1
    rows = []
    for row in summary.rows:
        cells = [_parameters(summary, row), *(_score(summary, row, column) for column in summary.columns)]
        rows.append((row, [*cells, _average(summary, row)] if with_average else cells))
    headings += ["average"] if with_average else []
    return Table("scores", "Scores", caption, headings, rows, [(MAJORITY, _majority(summary, with_average))])


def _majority(summary: Summary, with_average: bool) -> list[TableCell]:
    """What the most frequent answer reaches; records of before do not say it."""
    values = [summary.majority(column) for column in summary.columns]
    known = [value for value in values if value is not None]
    cells = [_of_majority(value, column) for value, column in zip(values, summary.columns, strict=True)]
    if with_average:
        mean = sum(known) / len(known) if known and len(known) == len(values) else None
        cells.append(_of_majority(mean, summary.columns[0]))
    return [TableCell("0", 0), *cells]


def _of_majority(value: float | None, column: Column) -> TableCell:
    if value is None:
        return TableCell(
            "not known", hint="no record says it: none was written, or before it was kept, or none answers"
        )
    return TableCell(f"{scale_of(column.metric) * value:.1f}", value)


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
    notes = [
        f"{name.replace('_', ' ')} {scale_of(name) * mean.mean:.{places_of(name)}f}"
        for name, mean in score.others.items()
    ]
    if (paper := summary.paper(row, column)) is not None:
        notes.append(f"paper {paper:.2f}")
    if always := _constant(score):
        notes.append(always)
    if missing := len(summary.grid.seeds) - score.main.count:
        notes.append(f"{missing} of {len(summary.grid.seeds)} seeds missing")
    return TableCell(
        shown(score.main, column.metric), score.main.mean, score.rank, link, " · ".join(notes), _rate_hint(score)
    )


def _constant(score: Score) -> str:
    """That a score is of one answer for every row, in all of its runs or in some; empty where it is not."""
    if not score.constant:
        return ""
    count = len(score.result.records)
    which = "" if score.constant == count else f" in {score.constant} of {count} runs"
    return f"one answer for every row{which}"


def _rate_hint(score: Score) -> str:
    chosen = score.result.chosen
    return f"learning rate {rates_in_words(chosen.learning_rate, chosen.head_learning_rate)}" if chosen else ""


def _average(summary: Summary, row: str) -> TableCell:
    mean = summary.average(row)
    link = anchor(summary, row, summary.columns[0])
    return TableCell(shown(mean), mean.mean, summary.average_ranks.get(row), link) if mean else TableCell(DASH)


def differences_table(summary: Summary) -> Table:
    """Each row against its best peer, by paired bootstrap and the spread of the seeds."""
    seeds = " and the spread of the seeds" if summary.has_seeds else ""
    caption = (
        "Points that each method is ahead of (+) or behind (−) the best of the others, with the 95 % interval of a "
        f"paired bootstrap over the rows of {summary.scored_rows} (1,000 resamples, the same for all){seeds}. Full "
        "fine-tuning is nobody's peer, and forms of Propulsion are compared with the best that is none. Coloured where "
        "the interval leaves out 0 and nothing speaks against the comparison; with this many, a few do so by chance."
    )
    rows = []
    for row in summary.rows:
        cells = [_difference(summary, row, column) for column in summary.columns]
        if any(cell.value is not None for cell in cells):
            rows.append((row, cells))
    headings = [column.name for column in summary.columns]
    foot = [(MAJORITY, [_behind_best(summary, column) for column in summary.columns])] if rows else []
    return Table("peers", "Against the best peer", caption, headings, rows, foot)


def _behind_best(summary: Summary, column: Column) -> TableCell:
    """The most frequent answer against the best row that does not train every weight."""
    means = {row: score.mean for row in summary.rows if (score := summary.scores[row, column].main)}
    most, best = summary.majority(column), summary.best_peer(None, column, means)
    if most is None or best is None:
        return TableCell("not known")
    return TableCell(f"{scale_of(column.metric) * (most - means[best]):+.1f}".replace("-", "−"), most, below=best)


def _difference(summary: Summary, row: str, column: Column) -> TableCell:
    gap = summary.scores[row, column].difference
    if gap is None:
        return TableCell(DASH)
    sign = 1 if column.greater_is_better else -1
    against = doubts(summary, row, gap.peer, column)
    kind = ("good" if sign * gap.mean > 0 else "bad") if gap.is_clear and not against else ""
    scale = scale_of(column.metric)
    interval = f"[{scale * gap.low:+.1f}, {scale * gap.high:+.1f}]".replace("-", "−")
    text = f"{scale * gap.mean:+.1f}".replace("-", "−")
    return TableCell(
        f"{text} {interval}",
        gap.mean,
        link=anchor(summary, row, column),
        below="; ".join([f"{gap.peer}, p {_p(gap.p)}", *against]),
        kind=kind,
    )


def doubts(summary: Summary, row: str, peer: str, column: Column) -> list[str]:
    """What a difference is not to be read without: rates that were hardly chosen, runs that learned nothing."""
    said: dict[str, list[str]] = {}
    for name in (row, peer):
        score = summary.scores[name, column]
        for what, why in (("rate of", summary.choice(name, column).doubt), ("runs of", _constant(score))):
            if why:
                said.setdefault(f"{what} {{}}: {why}", []).append(name)
    return [sentence.format(" and ".join(names)) for sentence, names in said.items()]


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"= {value:.2f}"


def costs_table(summary: Summary) -> Table:
    """What each row costs; figures 3 (right) and 4 as numbers."""
    caption = (
        "Medians over the final runs. Training is the time in optimizer steps, without evaluation. Peak memory is the "
        "largest resident set of the process while training (on a GPU, what was allocated); training memory is its "
        "growth since before the first step: gradients, optimizer states and activations. After ±, half of the 95 % "
        f"interval, by how much runs differ that only the seed tells apart, over all rows.{summary.where_measured}"
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
                _measured(cost.measured, "train_seconds", seconds),
                _measured(cost.measured, "step_seconds", lambda value: f"{1000 * value:.0f} ms"),
                _measured(cost.measured, "peak_bytes", size),
                TableCell(size(cost.weight_bytes), cost.weight_bytes),
                _measured(cost.measured, "training_bytes", size),
                TableCell(size(cost.adapter_bytes), cost.adapter_bytes),
            ]
            rows.append((row, [TableCell(c.text, c.value, link=link) for c in cells]))
    return Table("costs", "Costs", caption, headings, rows)


def _measured(costs: Measured | None, name: str, words: Callable[[Any], str]) -> TableCell:
    if costs is None:
        return TableCell(DASH)
    width = f" ± {100 * costs.widths[name]:.0f} %" if name in costs.widths else ""
    return TableCell(words(getattr(costs, name)) + width, getattr(costs, name))


def seconds(value: float) -> str:
    """Seconds, or minutes from 100 s on."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"


def rates_table(summary: Summary) -> Table:
    """Which learning rates were tried, and which was chosen."""
    generated = any(column.is_generated for column in summary.columns)
    by_loss = ", and before that, where texts are generated, to what has the lower loss" if generated else ""
    caption = (
        f"Each rate was trained once and scored on {summary.selection_fraction:.0%} of the training rows, which were "
        "set aside; the chosen one is bold, unless that was no choice. What is better only by chance loses to what is "
        f"nearer to the method's usual rate{by_loss}. The validation split had no part in this."
    )
    if any(summary.grid.rates(row) == AUTO for row in summary.rows):
        caption += " Rates around the usual one were tried for a third of a run, at √3 times what is said."
    if any(summary.grid.head_rates(row) for row in summary.rows):
        caption += " Other rates of the head were tried at the rate that was chosen with the usual one."
    rows = []
    for row in summary.rows:
        cells = [_tried(summary, row, column) for column in summary.columns]
        if any(cell.below for cell in cells):
            rows.append((row, cells))
    headings = [column.name for column in summary.columns]
    always = [_of_majority(summary.selection_majority(column), column) for column in summary.columns]
    return Table("rates", "Learning rates", caption, headings, rows, [(MAJORITY, always)] if rows else [])


def _tried(summary: Summary, row: str, column: Column) -> TableCell:
    choice = summary.choice(row, column)
    scale = scale_of(column.metric)
    scores = [DASH if run.score is None else f"{scale * run.score:.1f}" for run in choice.tried]
    tried = zip(choice.tried, scores, strict=True)
    parts = [f"{rates_in_words(run.rate, run.head_rate)}: {score}" for run, score in tried]
    below = " · ".join(parts) + (f"; {choice.doubt}" if choice.doubt else "")
    mark = 1 if choice.rate and not choice.doubt else None
    return TableCell(choice.chosen or DASH, choice.rate, mark, anchor(summary, row, column), below)


def failures_table(summary: Summary) -> Table:
    """What failed, and why."""
    caption = "A run that fails is a result too. Start the grid with --retry_failed to run these again."
    rows = [(name, [TableCell(failure.error)]) for name, failure in summary.failures]
    return Table("failures", "Failures", caption, ["why"], rows, first="run", is_text=True)
