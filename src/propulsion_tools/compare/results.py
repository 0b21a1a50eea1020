"""What came of a grid's runs, cell by cell: the learning rate that was chosen, and the final runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import Cell, Run, cells, final_runs, named_tries, selection_run, usual_rates
from propulsion_tools.compare.run_folders import Failure, Outcome
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import RunRecord
from propulsion_tools.records.fields import AUTO
from propulsion_tools.training.rate_plan import FAILED, Merit, Plan, Try, choose, merit, plan

RunOutcome = tuple[Run, Outcome | None]


@dataclass(frozen=True)
class CellResult:
    """How far a cell has come.

    Attributes:
        cell: Which.
        selection: The runs that choose a rate, with what came of them; None: not yet run.
        chosen: The rates that were chosen; None: not yet, or every run that was to choose them failed.
        final: The runs that count; empty before the rate is chosen.
    """

    cell: Cell
    selection: tuple[RunOutcome, ...]
    chosen: Try | None
    final: tuple[RunOutcome, ...]

    @property
    def rate(self) -> float | None:
        """The learning rate of the method that was chosen."""
        return self.chosen.learning_rate if self.chosen else None

    @property
    def todo(self) -> list[Run]:
        """The runs that can be started now."""
        waiting = [run for run, outcome in self.selection if outcome is None]
        return waiting or [run for run, outcome in self.final if outcome is None]

    @property
    def is_hopeless(self) -> bool:
        """Whether there will be no final runs, because every run that was to choose a rate failed."""
        return self.chosen is None and all(outcome is not None for _, outcome in self.selection)

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
    search = _search(grid, cell, lambda item: _merit(outcome(selection_run(grid, cell, item))))
    selection = tuple((run, outcome(run)) for run in (selection_run(grid, cell, item) for item in search.tries))
    final = () if search.chosen is None else tuple((run, outcome(run)) for run in final_runs(grid, cell, search.chosen))
    return CellResult(cell, selection, search.chosen, final)


def _search(grid: Grid, cell: Cell, outcome: Callable[[Try], Merit | None]) -> Plan:
    """What the cell tries, and what it chose: among the rates that are named, or around the method's own; then, at that
    rate, among the head's."""
    usual = usual_rates(grid, cell)
    if grid.rates(cell.row) == AUTO:
        search = plan(usual.learning_rate, usual.head_learning_rate, outcome)
    else:
        search = choose(named_tries(grid, cell), usual, outcome)
    heads = grid.head_rates(cell.row)
    if search.chosen is None or not heads:
        return search
    best = search.chosen
    with_heads = dict.fromkeys([best, *(replace(best, head_learning_rate=rate) for rate in heads)])
    last = choose(list(with_heads), usual, outcome)
    return replace(last, tries=tuple(dict.fromkeys((*search.tries, *last.tries))))


def _merit(outcome: Outcome | None) -> Merit | None:
    return None if outcome is None else merit(outcome) if isinstance(outcome, RunRecord) else FAILED


def all_results(grid: Grid) -> list[CellResult]:
    """How far every cell has come, by what its runs left.

    Raises:
        OptionError: The grid's archive is damaged, too large, or holds something else than results of runs.
        SchemaVersionError: A record was written under another version of the schema.
    """
    store = RunStore(grid.folder)
    return [cell_result(grid, cell, store.outcome) for cell in cells(grid)]
