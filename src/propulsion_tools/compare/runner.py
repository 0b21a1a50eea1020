"""Runs what is missing of a grid. What is there already is found by looking, so a kill at any time costs little."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Protocol

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.groups import Grouping
from propulsion_tools.compare.local_backend import Backend, LocalProcesses
from propulsion_tools.compare.plan import Cell, Run, cells
from propulsion_tools.compare.results import CellResult, cell_result
from propulsion_tools.compare.run_folders import Failure, Outcome, forget_failure, keep_results_only, write_failure
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.errors import OptionError

LOCK_FILE = ".lock"


class Listener(Protocol):
    """Is told how a grid gets on."""

    def started(self, run: Run) -> None:
        """A run begins."""

    def ended(self, run: Run, outcome: Outcome, before: bool = False) -> None:
        """A run has ended; `before`: an earlier start of the grid ran it."""

    def skipped(self, cell: Cell, runs: int) -> None:
        """So many final runs of a cell will never be, because no learning rate could be chosen for them."""


def run_grid(
    grid: Grid,
    backend: Backend,
    listener: Listener,
    retry_failed: bool = False,
    grouping: Grouping | None = None,
) -> list[CellResult]:
    """Run all that has not been run.

    Args:
        grid: What to run.
        backend: Where.
        listener: Is told of every run.
        retry_failed: Run again what failed before.
        grouping: Which runs are trained together, where the backend can; None: none are.

    Returns:
        What came of it, cell by cell.

    Raises:
        OptionError: Another process runs this grid.
        SchemaVersionError: A record was written under another version of the schema.
    """
    with _alone(grid.folder):
        work = _Work(grid, backend, listener, grouping)
        if retry_failed:
            for result in work.results.values():
                for run, _ in result.failures:
                    forget_failure(Path(run.folder))
            work = _Work(grid, backend, listener, grouping)
        try:
            work.run()
        finally:
            backend.close()
        return list(work.results.values())


class _Work:
    """The runs that wait, those under way, and what came of the others."""

    def __init__(self, grid: Grid, backend: Backend, listener: Listener, grouping: Grouping | None) -> None:
        self.grid, self.backend, self.listener = grid, backend, listener
        self.grouping = grouping if isinstance(backend, LocalProcesses) else None
        self.store = RunStore(grid.folder)
        self.results = {cell: cell_result(grid, cell, self.store.outcome) for cell in cells(grid)}
        self.waiting = deque(run for result in self.results.values() for run in result.todo)
        self.running: dict[Future[list[Failure | None]], list[Run]] = {}

    def run(self) -> None:
        """Start runs until none is left, those of a cell whose rate has just been chosen before those of the next."""
        self._report_earlier_runs()
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.backend.slots:
                self._start(self.backend.slots - len(self.running))
            done, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in done:
                for run, failure in zip(self.running.pop(future), future.result(), strict=True):
                    self._end(run, failure)

    def _start(self, free: int) -> None:
        group = [self.waiting[0]] if self.grouping is None else self.grouping.first_group(self.waiting, free)
        for run in group:
            self.waiting.remove(run)
        if len(group) > 1 and self.grouping is not None and isinstance(self.backend, LocalProcesses):
            self.running[self.backend.submit_together(group, self.grouping.measure)] = group
        else:
            self.running[_as_list(self.backend.submit(group[0]))] = group
        for run in group:
            self.listener.started(run)

    def _report_earlier_runs(self) -> None:
        for result in self.results.values():
            for run, outcome in result.runs:
                if outcome is not None:
                    self.listener.ended(run, outcome, before=True)
            if result.is_hopeless:
                self._skip(result.cell)

    def _end(self, run: Run, failure: Failure | None) -> None:
        folder = Path(run.folder)
        outcome = failure or self.store.outcome(run)
        if outcome is None:
            outcome = failure = Failure("it ended well, but left no record where this machine can see it", 0, 0.0)
        if failure:  # also one that the run itself could not write, because its machine died
            write_failure(folder, failure)
        if not (run.is_final and self.grid.keep_weights):
            keep_results_only(folder)
        self.listener.ended(run, outcome)
        self._go_on(run.cell)

    def _go_on(self, cell: Cell) -> None:
        before = self.results[cell]
        known = {run.name: outcome for run, outcome in before.runs}
        result = cell_result(self.grid, cell, lambda run: known.get(run.name) or self.store.outcome(run))
        self.results[cell] = result
        self.waiting.extendleft(run for run in reversed(result.todo) if run.name not in known)
        if result.is_hopeless and not before.is_hopeless:  # of runs that fail together, the first tells of all
            self._skip(cell)

    def _skip(self, cell: Cell) -> None:
        self.listener.skipped(cell, len(self.grid.seeds))


def _as_list(one: Future[Failure | None]) -> Future[list[Failure | None]]:
    """The future of a group of one."""
    group: Future[list[Failure | None]] = Future()

    def pass_on(ended: Future[Failure | None]) -> None:
        if (error := ended.exception()) is not None:
            group.set_exception(error)
        else:
            group.set_result([ended.result()])

    one.add_done_callback(pass_on)
    return group


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the grid's folder, so that two processes never run the same grid; the system lets go when this one dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OptionError(f"Another process is running the grid in {folder}: wait for it, or stop it.") from error
        yield
