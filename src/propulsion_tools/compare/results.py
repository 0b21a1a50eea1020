"""What the folders of a grid's runs say, cell by cell: the learning rate that was chosen, and the final runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import Cell, Run, cells, final_runs, rates, selection_runs
from propulsion_tools.compare.run_folders import Failure, Outcome, outcome
from propulsion_tools.records import RunRecord
from propulsion_tools.tasks import Task, get_task
from propulsion_tools.tasks.selection import SELECTION

Ended = tuple[Run, Outcome | None]
Look = Callable[[str], Outcome | None]


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
    selection: tuple[Ended, ...]
    rate: float | None
    final: tuple[Ended, ...]

    @property
    def todo(self) -> list[Run]:
        """The runs that can be started now."""
        waiting = [run for run, ended in self.selection if ended is None]
        return waiting or [run for run, ended in self.final if ended is None]

    @property
    def records(self) -> list[tuple[Run, RunRecord]]:
        """The final runs that finished."""
        return [(run, ended) for run, ended in self.final if isinstance(ended, RunRecord)]

    @property
    def failures(self) -> list[tuple[Run, Failure]]:
        """The runs that failed, of both kinds."""
        return [(run, ended) for run, ended in (*self.selection, *self.final) if isinstance(ended, Failure)]


def look_at(grid: Grid, cell: Cell, look: Look = outcome) -> CellResult:
    """How far a cell has come, by what is in the folders of its runs.

    Args:
        grid: The grid.
        cell: One of its cells.
        look: Tells how the run in a folder ended.

    Raises:
        SchemaVersionError: A record was written under another version of the schema.
    """
    selection = tuple((run, look(run.folder)) for run in selection_runs(grid, cell))
    rate: float | None = None
    if not selection:
        rate = rates(grid, cell)[0]
    elif all(ended is not None for _, ended in selection):
        rate = choose([(run, ended) for run, ended in selection if isinstance(ended, RunRecord)])
    final = () if rate is None else tuple((run, look(run.folder)) for run in final_runs(grid, cell, rate))
    return CellResult(cell, selection, rate, final)


def choose(tried: Sequence[tuple[Run, RunRecord]]) -> float | None:
    """The rate with the best main metric on the part that was set aside; of equals, the one with the smallest loss."""
    if not tried:
        return None
    task = get_task(str(tried[0][0].spec.task))
    best, _ = max(tried, key=lambda item: _merit(item[1], task))
    return best.spec.learning_rate


def _merit(record: RunRecord, task: Task) -> tuple[float, float]:
    scores = record.metrics[SELECTION]
    metric, loss = (scores.get(name) for name in (task.main_metric, "loss"))
    sign = 1 if task.greater_is_better else -1
    return (
        -math.inf if metric is None or math.isnan(metric) else sign * metric,
        -math.inf if loss is None or math.isnan(loss) else -loss,
    )


def all_results(grid: Grid) -> list[CellResult]:
    """How far every cell has come."""
    return [look_at(grid, cell) for cell in cells(grid)]
