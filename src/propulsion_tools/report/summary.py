"""A grid's results as the report shows them: rows of scores and costs, marked and compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import SELECTION
from propulsion_tools.compare.results import CellResult
from propulsion_tools.compare.run_folders import Failure
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.methods import get_method
from propulsion_tools.records import RunRecord
from propulsion_tools.report.answers import all_alike, are_paired, read_answers
from propulsion_tools.report.choices import Choice, choice_of
from propulsion_tools.report.costs import Block, Costs, Noise, Records, costs_of, largest_block, measured, noise_of
from propulsion_tools.report.noise import around, half_width
from propulsion_tools.report.paper_scores import paper_score
from propulsion_tools.report.statistics import Difference, Mean, Rows, difference, mean_of, resampled
from propulsion_tools.tasks import get_task
from propulsion_tools.tasks.generation import Generation

FULL = "full"
FORGETTING = "forgetting"
Behind = Callable[[str, str], bool]
"""Whether a row is behind another beyond the noise."""


@dataclass(frozen=True)
class Column:
    """A task at a size."""

    task: str
    size: int | None
    metric: str
    others: tuple[str, ...]
    greater_is_better: bool = True
    is_generated: bool = False

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.task} ({self.size:,} rows)" if self.size else self.task


@dataclass(frozen=True)
class Score:
    """What one row reached in one column."""

    result: CellResult
    main: Mean | None
    others: Mapping[str, Mean]
    rank: int | None = None
    """1 for the best, 2 for the second best, among the methods that do not train every weight."""
    difference: Difference | None = None
    constant: int = 0
    """In how many of the final runs every row got the same answer."""


class Summary:
    """All that the report tells.

    Args:
        grid: The grid.
        results: How far each of its cells has come.
    """

    def __init__(self, grid: Grid, results: Sequence[CellResult]) -> None:
        self.grid = grid
        self.results = {(result.cell.row, result.cell.task, result.cell.size): result for result in results}
        self.store = RunStore(grid.folder)
        self._rows: dict[tuple[str, Column], list[Rows]] = {}
        self._resamples: dict[tuple[str, Column], np.ndarray | None] = {}
        self._choices: dict[tuple[str, Column], Choice] = {}

    @cached_property
    def columns(self) -> list[Column]:
        """The columns, in the order of the grid."""
        return [self._column(task, size) for task in self.grid.tasks for size in self.grid.train_sizes]

    def _column(self, label: str, size: int | None) -> Column:
        task = get_task(str(self.grid.tasks[label]["task"]))
        names = [
            name
            for (_, other, _), result in self.results.items()
            if other == label
            for _, record in result.records[:1]
            for name in _scores(record)
            if name not in ("loss", task.main_metric)
        ]
        others, generated = tuple(dict.fromkeys(names)), isinstance(task, Generation)
        return Column(label, size, task.main_metric, others, task.greater_is_better, generated)

    @cached_property
    def rows(self) -> list[str]:
        """The labels of the rows, in the order of the grid."""
        return list(self.grid.methods)

    def method(self, row: str) -> str:
        """The method of a row."""
        return str(self.grid.methods[row]["method"])

    def is_propulsion(self, row: str) -> bool:
        """Whether a row is a form of Propulsion."""
        return get_method(self.method(row)).is_propulsion

    def result(self, row: str, column: Column) -> CellResult:
        """How far a cell has come."""
        return self.results[row, column.task, column.size]

    def records(self, row: str) -> list[RunRecord]:
        """The final records of a row."""
        return [record for column in self.columns for _, record in self.result(row, column).records]

    @cached_property
    def scores(self) -> dict[tuple[str, Column], Score]:
        """What each row reached in each column."""
        return {(row, column): score for column in self.columns for row, score in self._scored(column).items()}

    def _scored(self, column: Column) -> dict[str, Score]:
        means = {row: _mean(self.result(row, column), column.metric) for row in self.rows}
        ranks = ranked(
            {row: mean.mean for row, mean in means.items() if mean and self._is_ranked(row, column)},
            column.greater_is_better,
            lambda row, best: self.is_better(best, row, [column]),
        )
        gaps = self._differences(column, {row: mean.mean for row, mean in means.items() if mean})
        return {
            row: Score(
                self.result(row, column),
                means[row],
                {name: mean for name in column.others if (mean := _mean(self.result(row, column), name))},
                ranks.get(row),
                gaps.get(row),
                sum(map(all_alike, self._answers(row, column))),
            )
            for row in self.rows
        }

    def _is_ranked(self, row: str, column: Column) -> bool:
        """Whether a row's mean may be the best: not that of full fine-tuning, nor one that lacks seeds that failed."""
        return self.method(row) != FULL and not self.result(row, column).failures

    def _differences(self, column: Column, means: Mapping[str, float]) -> dict[str, Difference]:
        gaps = {}
        for row in means:
            peer = self.best_peer(row, column, means)
            mine, other = self._drawn(row, column), self._drawn(peer, column) if peer else None
            if peer and mine is not None and other is not None and self._is_paired(row, peer, column):
                seeds = [self._by_seed(name, [column]) for name in (row, peer)]
                gaps[row] = difference(mine, other, means[row] - means[peer], peer, seeds)
        return gaps

    def best_peer(self, row: str | None, column: Column, means: Mapping[str, float]) -> str | None:
        """The best other method that does not train every weight; for a form of Propulsion, the best that is none.

        Args:
            row: Whose peer is wanted; None: of no row.
            column: Where.
            means: The score of each row that has one.
        """
        peers = [
            other
            for other in means
            if other != row
            and self.method(other) != FULL
            and not (row is not None and self.is_propulsion(row) and self.is_propulsion(other))
        ]
        sign = 1 if column.greater_is_better else -1
        return max(peers, key=lambda other: sign * means[other], default=None)

    def _is_paired(self, row: str, peer: str, column: Column) -> bool:
        """Whether both were scored on the same rows under the same seeds."""
        mine, other = self._answers(row, column), self._answers(peer, column)
        return len(mine) == len(other) and all(are_paired(a, b) for a, b in zip(mine, other, strict=True))

    def _count(self, row: str, column: Column) -> int:
        """The rows of the split whose answers were kept."""
        return len(next(iter(self._answers(row, column)[0].values())))

    def _drawn(self, row: str, column: Column) -> np.ndarray | None:
        """The resamples of a score; None where nothing was kept row by row."""
        if (row, column) not in self._resamples:
            self._resamples[row, column] = resampled(self._answers(row, column), column.metric)
        return self._resamples[row, column]

    def is_better(self, one: str, other: str, columns: Sequence[Column] | None = None) -> bool:
        """Whether a row is better than another beyond the noise of the scored rows and the seeds, at 95 % for all rows.

        Args:
            one: A row.
            other: Another.
            columns: On the mean of their main metrics; None: of all.
        """
        columns = self.columns if columns is None else columns
        mine, theirs = self._by_seed(one, columns), self._by_seed(other, columns)
        if not mine or not theirs:
            return False
        pairs = [(self._drawn(one, column), self._drawn(other, column)) for column in columns]
        paired = all(self._is_paired(one, other, column) for column in columns)
        gaps = [a - b for a, b in pairs if a is not None and b is not None]
        kept = paired and len(gaps) == len(pairs)
        row = statistics.fmean(1 / self._count(one, column) for column in columns) / len(columns) if kept else 0.0
        width = half_width(gaps if kept else None, (mine, theirs), max(1, len(self.rows) - 1), row)
        sign = 1 if columns[0].greater_is_better else -1
        return width is not None and sign * (statistics.fmean(mine) - statistics.fmean(theirs)) > width

    def interval(self, row: str, columns: Sequence[Column] | None = None) -> tuple[float, float] | None:
        """How far the 95 % interval of a score reaches down and up, as it is shown; None where it is not known.

        Args:
            row: The row.
            columns: Of the mean of their main metrics; None: of all, which is `merit`.
        """
        columns = self.columns if columns is None else columns
        drawn = [values for column in columns if (values := self._drawn(row, column)) is not None]
        reach = around(drawn if len(drawn) == len(columns) else None, self._by_seed(row, columns))
        scale = scale_of(columns[0].metric)
        return None if reach is None else (scale * reach[0], scale * reach[1])

    @property
    def has_seeds(self) -> bool:
        """Whether any cell has runs of two seeds."""
        return any(len(result.records) > 1 for result in self.results.values())

    def _by_seed(self, row: str, columns: Sequence[Column]) -> list[float]:
        """The mean over columns of their main metrics, seed by seed; nothing where one is missing."""
        by_column = [_values(self.result(row, column), column.metric) for column in columns]
        if len({len(values) for values in by_column}) != 1:
            return []
        return [statistics.fmean(values) for values in zip(*by_column, strict=True)]

    def majority(self, column: Column) -> float | None:
        """What the most frequent answer reaches; None where no record says it."""
        records = [record for row in self.rows for _, record in self.result(row, column).records]
        return _known_mean(_first(record.majority).get(column.metric) for record in records)

    @property
    def majority_merit(self) -> float | None:
        """What the most frequent answer reaches in `merit`; None where it is not known of each column."""
        values = [self.majority(column) for column in self.columns]
        known = [value for value in values if value is not None]
        return scale_of(self.columns[0].metric) * statistics.fmean(known) if len(known) == len(values) else None

    def selection_majority(self, column: Column) -> float | None:
        """The same on the rows that are set aside to choose rates on."""
        outcomes = [outcome for row in self.rows for _, outcome in self.result(row, column).selection]
        records = [outcome for outcome in outcomes if isinstance(outcome, RunRecord)]
        return _known_mean(_first(record.majority).get(column.metric) for record in records)

    def choice(self, row: str, column: Column) -> Choice:
        """How a cell came to its learning rate."""
        if (row, column) not in self._choices:
            self._choices[row, column] = choice_of(self.store, self.result(row, column), column.metric)
        return self._choices[row, column]

    def _answers(self, row: str, column: Column) -> list[Rows]:
        if (row, column) not in self._rows:
            records = self.result(row, column).records
            self._rows[row, column] = [read_answers(self.store, run, record) for run, record in records]
        return self._rows[row, column]

    def average(self, row: str) -> Mean | None:
        """The mean over the columns' main metrics, seed by seed; None where one is missing."""
        by_column = [_values(self.result(row, column), column.metric) for column in self.columns]
        alike = all(scale_of(column.metric) == 100 for column in self.columns)
        if len(self.columns) < 2 or not alike or not all(len(values) == len(self.grid.seeds) for values in by_column):
            return None
        return mean_of([statistics.fmean(values) for values in zip(*by_column, strict=True)])

    @cached_property
    def average_ranks(self) -> dict[str, int]:
        """The best and the second best average."""
        averages = {row: mean.mean for row in self.rows if (mean := self.average(row)) and self.method(row) != FULL}
        return ranked(averages, self.greater_is_better, lambda row, best: self.is_better(best, row))

    @property
    def greater_is_better(self) -> bool:
        """Whether the score of the figures is best where it is largest."""
        return self.columns[0].greater_is_better

    def merit(self, row: str) -> float | None:
        """One number for the figures: the average, or the only score."""
        mean = self.average(row) if len(self.columns) > 1 else self.scores[row, self.columns[0]].main
        return scale_of(self.columns[0].metric) * mean.mean if mean else None

    def paper(self, row: str, column: Column) -> float | None:
        """The paper's number, out of 100, for a method with its usual settings; None where it has none."""
        if set(self.grid.methods[row]) != {"method"}:
            return None
        task = str(self.grid.tasks[column.task]["task"])
        models = {record.spec.model_name_or_path for _, record in self.result(row, column).records}
        return next((paper_score(model, self.method(row), task, column.metric) for model in models), None)

    def costs(self, row: str) -> Costs | None:
        """What a row costs; None where none of its runs finished."""
        return costs_of(self._by_column(row), self._compared(row), self.noise)

    @cached_property
    def noise(self) -> Noise:
        """By how much runs that differ in their seed alone differ in what they cost."""
        return noise_of(list(map(self._compared, self.rows)))

    @cached_property
    def block(self) -> Block | None:
        """The rows and columns that times and memory are compared over."""
        return largest_block({row: self._by_column(row) for row in self.rows})

    @property
    def where_measured(self) -> str:
        """Which runs times and memory are of, as a sentence after another; empty where they are of all."""
        here = sum(len(group) for row in self.rows for group in self._compared(row))
        runs = sum(len(self.records(row)) for row in self.rows)
        if here == runs:
            return ""
        if self.block is None:
            return " No run was alone: times and memory are left out."
        columns = [column.name for place, column in enumerate(self.columns) if place in self.block.columns]
        on = f"{self.block.place}, for {', '.join(columns)}" if len(columns) < len(self.columns) else self.block.place
        return f" Times and memory are those of the {here} of {runs} runs that were made on {on}."

    def is_cheaper(self, one: str, other: str, name: str) -> bool:
        """Whether a measured cost (one of `MEASURED`) of a row is less than another's beyond the noise."""
        mine, theirs = (measured(self._compared(row), name) for row in (one, other))
        return name in self.noise and self.noise[name].is_less(mine, theirs)

    def _by_column(self, row: str) -> Records:
        return [[record for _, record in self.result(row, column).records] for column in self.columns]

    def _compared(self, row: str) -> Records:
        by_column = self._by_column(row)
        return self.block.of(row, by_column) if self.block else [[] for _ in by_column]

    @property
    def selection_fraction(self) -> float:
        """The share of the training rows that rates are chosen on."""
        return float({**SELECTION, **self.grid.selection}["selection_fraction"])

    @property
    def scored_rows(self) -> str:
        """What the final runs are scored on, in words."""
        share = float(self.grid.settings.get("selection_fraction", 0))
        return f"the {share:.0%} of the training rows that were set aside" if share else "the validation split"

    @property
    def failures(self) -> list[tuple[str, Failure]]:
        """Every run that failed, in words, and why."""
        return [(str(run), failure) for result in self.results.values() for run, failure in result.failures]

    @property
    def missing(self) -> int:
        """How many final runs have neither finished nor failed."""
        finished = sum(len(result.final) - len(result.todo) for result in self.results.values() if result.final)
        hopeless = len(self.grid.seeds) * sum(result.is_hopeless for result in self.results.values())
        return len(self.results) * len(self.grid.seeds) - finished - hopeless


def _scores(record: RunRecord) -> Mapping[str, float]:
    """The metrics of the split that is watched, and the forgetting where it was measured."""
    measured = {} if record.forgotten is None else {FORGETTING: record.forgotten}
    return {**_first(record.metrics), **measured}


def _first(by_split: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    return next(iter(by_split.values()), {})


def _known_mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known: seeds may sample rows of their own; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def scale_of(metric: str) -> int:
    """What a score is multiplied with to be shown: shares and correlations are out of 100, as in the paper."""
    return 1 if metric in ("loss", "perplexity", FORGETTING) or "threshold" in metric else 100


def places_of(metric: str) -> int:
    """How many decimals it is shown with."""
    return 3 if metric == FORGETTING else 1


def _values(result: CellResult, metric: str) -> list[float]:
    """By seed, in the order of the grid."""
    values = [_scores(record).get(metric) for _, record in result.records]
    return [value for value in values if value is not None and np.isfinite(value)]


def _mean(result: CellResult, metric: str) -> Mean | None:
    values = _values(result, metric)
    return mean_of(values) if values else None


def ranked(values: Mapping[str, float], greater_is_better: bool, behind: Behind | None = None) -> dict[str, int]:
    """1 for the best row and 2 for the best of the others, each with those that are not behind it; but not all rows.

    Args:
        values: By row.
        greater_is_better: Which is best.
        behind: Whether a row is behind another beyond the noise; None: where their values differ.
    """
    behind = behind or (lambda row, best: values[row] != values[best])
    places: dict[str, int] = {}
    rest = list(values)
    for place in (1, 2):
        if rest:
            best = (max if greater_is_better else min)(rest, key=values.__getitem__)
            group = [row for row in rest if row == best or not behind(row, best)]
            if len(group) == len(values) > 1:
                return {}
            places |= dict.fromkeys(group, place)
            rest = [row for row in rest if row not in group]
    return places
