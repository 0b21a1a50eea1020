"""What came of a grid's runs, cell by cell: the learning rate that was chosen, and the final runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import Cell, Run, candidate_rates, cells, final_runs, selection_runs
from propulsion_tools.compare.run_folders import Failure, Outcome
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import RunRecord
from propulsion_tools.tasks import Task, get_task
from propulsion_tools.tasks.selection import SELECTION

RunOutcome = tuple[Run, Outcome | None]


@dataclass(frozen=True)
class CellResult:
    """How far a cell has come.

    Attributes:
        cell: Which.
        selection: The runs that choose a rate, with what came of them; None: not yet run.
        rate: The rate that was chosen; None: not chosen yet, or every run that was to choose it failed.
        final: The runs that count; empty before the rate is chosen.
    """

    cell: Cell
    selection: tuple[RunOutcome, ...]
    rate: float | None
    final: tuple[RunOutcome, ...]

    @property
    def todo(self) -> list[Run]:
        """The runs that can be started now."""
        waiting = [run for run, outcome in self.selection if outcome is None]
        return waiting or [run for run, outcome in self.final if outcome is None]

    @property
    def is_hopeless(self) -> bool:
        """Whether there will be no final runs, because every run that was to choose a rate failed."""
        return self.rate is None and all(outcome is not None for _, outcome in self.selection)

    @property
    def records(self) -> list[tuple[Run, RunRecord]]:
        """The final runs that finished."""
        return [(run, outcome) for run, outcome in self.final if isinstance(outcome, RunRecord)]

    @property
    def failures(self) -> list[tuple[Run, Failure]]:
        """The runs that failed, of both kinds."""
        return [(run, outcome) for run, outcome in self.runs if isinstance(outcome, Failure)]

    @property
    def runs(self) -> tuple[RunOutcome, ...]:
        """The runs of both kinds."""
        return (*self.selection, *self.final)


def cell_result(grid: Grid, cell: Cell, outcome: Callable[[Run], Outcome | None]) -> CellResult:
    """How far a cell has come, by the outcomes of its runs.

    Args:
        grid: The grid.
        cell: One of its cells.
        outcome: How a run ended; None if it has not.
    """
    selection = tuple((run, outcome(run)) for run in selection_runs(grid, cell))
    rate: float | None = None
    if not selection:
        rate = candidate_rates(grid, cell)[0]
    elif all(result is not None for _, result in selection):
        rate = choose([(run, record) for run, record in selection if isinstance(record, RunRecord)])
    final = () if rate is None else tuple((run, outcome(run)) for run in final_runs(grid, cell, rate))
    return CellResult(cell, selection, rate, final)


def choose(tried: Sequence[tuple[Run, RunRecord]]) -> float | None:
    """The rate with the best main metric on the part that was set aside; of equals, the one with the smallest loss."""
    if not tried:
        return None
    task = get_task(str(tried[0][0].spec.task))
    best, _ = max(tried, key=lambda item: _merit(item[1], task))
    return float(best.spec.learning_rate or 0.0)


def _merit(record: RunRecord, task: Task) -> tuple[float, float]:
    scores = record.metrics[SELECTION]
    metric, loss = (scores.get(name) for name in (task.main_metric, "loss"))
    sign = 1 if task.greater_is_better else -1
    return (
        -math.inf if metric is None or math.isnan(metric) else sign * metric,
        -math.inf if loss is None or math.isnan(loss) else -loss,
    )


def all_results(grid: Grid) -> list[CellResult]:
    """How far every cell has come, by what its runs left.

    Raises:
        OptionError: The grid's archive is damaged, too large, or holds something else than results of runs.
        SchemaVersionError: A record was written under another version of the schema.
    """
    store = RunStore(grid.folder)
    return [cell_result(grid, cell, store.outcome) for cell in cells(grid)]
