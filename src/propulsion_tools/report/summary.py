"""A grid's results as the report shows them: rows of scores and costs, marked and compared."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import SELECTION, Run
from propulsion_tools.compare.results import CellResult
from propulsion_tools.compare.run_folders import Failure
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import PREDICTIONS_FILE, RunRecord
from propulsion_tools.report.paper_scores import paper_score
from propulsion_tools.report.statistics import Difference, Mean, Rows, difference, mean_of, resampled
from propulsion_tools.tasks import get_task

FULL = "full"


@dataclass(frozen=True)
class Column:
    """A task at a size."""

    task: str
    size: int | None
    metric: str
    others: tuple[str, ...]
    greater_is_better: bool = True

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


@dataclass(frozen=True)
class Costs:
    """Medians over a row's final runs."""

    adapter: int
    head: int
    train_seconds: float
    step_seconds: float
    peak_bytes: int
    weight_bytes: int
    training_bytes: int
    adapter_bytes: int

    @property
    def trainable(self) -> int:
        """Adapter and head."""
        return self.adapter + self.head


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
        return Column(label, size, task.main_metric, tuple(dict.fromkeys(names)), task.greater_is_better)

    @cached_property
    def rows(self) -> list[str]:
        """The labels of the rows, in the order of the grid."""
        return list(self.grid.methods)

    def method(self, row: str) -> str:
        """The method of a row."""
        return str(self.grid.methods[row]["method"])

    def is_propulsion(self, row: str) -> bool:
        """Whether a row is a form of Propulsion."""
        return self.method(row).startswith("propulsion")

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
            {row: mean.mean for row, mean in means.items() if mean and self.method(row) != FULL},
            column.greater_is_better,
        )
        gaps = self._differences(column, {row: mean.mean for row, mean in means.items() if mean})
        return {
            row: Score(
                self.result(row, column),
                means[row],
                {name: mean for name in column.others if (mean := _mean(self.result(row, column), name))},
                ranks.get(row),
                gaps.get(row),
            )
            for row in self.rows
        }

    def _differences(self, column: Column, means: Mapping[str, float]) -> dict[str, Difference]:
        drawn = {row: resampled(self._answers(row, column), column.metric) for row in means}
        gaps = {}
        for row in means:
            peer = self.best_peer(row, column, means)
            mine, other = drawn[row], drawn.get(peer or "")
            if peer and mine is not None and other is not None and self._is_paired(row, peer, column):
                gaps[row] = difference(mine, other, means[row] - means[peer], peer)
        return gaps

    def best_peer(self, row: str, column: Column, means: Mapping[str, float]) -> str | None:
        """The best other method that does not train every weight; for a form of Propulsion, the best that is none."""
        peers = [
            other
            for other in means
            if other != row
            and self.method(other) != FULL
            and not (self.is_propulsion(row) and self.is_propulsion(other))
        ]
        sign = 1 if column.greater_is_better else -1
        return max(peers, key=lambda other: sign * means[other], default=None)

    def _is_paired(self, row: str, peer: str, column: Column) -> bool:
        """Whether both were scored on the same rows under the same seeds."""
        mine, other = self._answers(row, column), self._answers(peer, column)
        return len(mine) == len(other) and all(
            np.array_equal(a["labels"], b["labels"]) for a, b in zip(mine, other, strict=True)
        )

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
        return ranked(averages, all(column.greater_is_better for column in self.columns))

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
        records = self.records(row)
        if not records:
            return None

        def middle(read: Callable[[RunRecord], float]) -> float:
            return statistics.median(read(record) for record in records)

        return Costs(
            int(middle(lambda record: record.parameters["adapter"])),
            int(middle(lambda record: record.parameters["head"])),
            middle(lambda record: record.seconds.get("steps") or record.seconds["train"]),
            middle(lambda record: record.seconds["per_step_median"]),
            int(middle(lambda record: record.peak_memory_bytes)),
            int(middle(lambda record: record.memory_bytes.get("weights", 0))),
            int(middle(lambda record: max(0, record.peak_memory_bytes - record.memory_bytes.get("start", 0)))),
            int(middle(lambda record: record.adapter_bytes)),
        )

    @property
    def selection_fraction(self) -> float:
        """The share of the training rows that rates are chosen on."""
        return float({**SELECTION, **self.grid.selection}["selection_fraction"])

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
    """The metrics of the split that is watched."""
    return next(iter(record.metrics.values()), {})


def scale_of(metric: str) -> int:
    """What a score is multiplied with to be shown: shares and correlations are out of 100, as in the paper."""
    return 1 if metric in ("loss", "perplexity") or "threshold" in metric else 100


def _values(result: CellResult, metric: str) -> list[float]:
    """By seed, in the order of the grid."""
    values = [_scores(record).get(metric) for _, record in result.records]
    return [value for value in values if value is not None and np.isfinite(value)]


def _mean(result: CellResult, metric: str) -> Mean | None:
    values = _values(result, metric)
    return mean_of(values) if values else None


def ranked(values: Mapping[str, float], greater_is_better: bool) -> dict[str, int]:
    """1 for the rows with the best value and 2 for the second best; equals share a place, but not all of them."""
    places = sorted(set(values.values()), reverse=greater_is_better)[:2]
    if len(places) == 1 < len(values):
        return {}
    return {row: places.index(value) + 1 for row, value in values.items() if value in places}


def read_answers(store: RunStore, run: Run, record: RunRecord) -> Rows:
    """``labels`` and ``answers`` of the split that is watched; nothing where they were not kept, or not whole."""
    split = next(iter(record.metrics), "")
    try:
        content = io.BytesIO(store.read(run, PREDICTIONS_FILE) or b"")
        with np.load(content, allow_pickle=False) as arrays:
            rows = {name: arrays[f"{split}_{name}"] for name in ("labels", "answers")}
    except (
        Exception
    ):  # NumPy, zipfile, zlib and Python's own tokenizer each fail in ways of their own on a damaged file
        return {}
    counts = {array.shape[:1] for array in rows.values()}
    return rows if len(counts) == 1 and () not in counts else {}
