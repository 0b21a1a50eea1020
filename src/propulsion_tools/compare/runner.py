"""Runs what is missing of a grid. What is there already is found by looking, so a kill at any time costs little."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Protocol

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.local_backend import Backend
from propulsion_tools.compare.plan import Cell, Run, cells
from propulsion_tools.compare.results import CellResult, look_at
from propulsion_tools.compare.run_folders import (
    Failure,
    Outcome,
    forget_failure,
    keep_proof_alone,
    outcome,
    write_failure,
)
from propulsion_tools.errors import OptionError

LOCK_FILE = ".lock"


class Listener(Protocol):
    """Is told how a grid gets on."""

    def started(self, run: Run) -> None:
        """A run begins."""

    def ended(self, run: Run, ended: Outcome, before: bool = False) -> None:
        """A run has ended; `before`: it was found so."""

    def skipped(self, runs: int) -> None:
        """So many final runs will never be, because no learning rate could be chosen for them."""


def run_grid(grid: Grid, backend: Backend, listener: Listener, retry_failed: bool = False) -> list[CellResult]:
    """Run all that has not been run.

    Args:
        grid: What to run.
        backend: Where.
        listener: Is told of every run.
        retry_failed: Run again what failed before.

    Returns:
        What came of it, cell by cell.

    Raises:
        OptionError: Another process runs this grid.
        SchemaVersionError: A record was written under another version of the schema.
    """
    with _alone(grid.folder):
        work = _Work(grid, backend, listener)
        if retry_failed:
            for result in work.results.values():
                for run, _ in result.failures:
                    forget_failure(Path(run.folder))
            work = _Work(grid, backend, listener)
        try:
            work.run()
        finally:
            backend.close()
        return list(work.results.values())


class _Work:
    """The runs that wait, those under way, and what came of the others."""

    def __init__(self, grid: Grid, backend: Backend, listener: Listener) -> None:
        self.grid, self.backend, self.listener = grid, backend, listener
        self.results = {cell: look_at(grid, cell) for cell in cells(grid)}
        self.waiting = deque(run for result in self.results.values() for run in result.todo)
        self.running: dict[Future[Failure | None], Run] = {}

    def run(self) -> None:
        """Start runs until none is left, those of a cell whose rate has just been chosen before those of the next."""
        self._tell_what_was_there()
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.backend.slots:
                run = self.waiting.popleft()
                self.running[self.backend.submit(run)] = run
                self.listener.started(run)
            done, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in done:
                self._end(self.running.pop(future), future.result())

    def _tell_what_was_there(self) -> None:
        for result in self.results.values():
            for run, ended in (*result.selection, *result.final):
                if ended is not None:
                    self.listener.ended(run, ended, before=True)
            self._tell_if_hopeless(result)

    def _end(self, run: Run, failed: Failure | None) -> None:
        folder = Path(run.folder)
        ended = outcome(folder)
        if failed or ended is None:
            ended = failed or Failure("it ended well, but left no record where this machine can see it", 0, 0.0)
            write_failure(folder, ended)
        if not (run.is_final and self.grid.keep_weights):
            keep_proof_alone(folder)
        self.listener.ended(run, ended)
        self._go_on(run.cell)

    def _go_on(self, cell: Cell) -> None:
        known = {run.folder: ended for run, ended in (*self.results[cell].selection, *self.results[cell].final)}
        before = self.results[cell]
        result = self.results[cell] = look_at(self.grid, cell, lambda folder: known.get(folder) or outcome(folder))
        if result.final and not before.final:
            self.waiting.extendleft(reversed(result.todo))
        self._tell_if_hopeless(result)

    def _tell_if_hopeless(self, result: CellResult) -> None:
        if result.rate is None and all(ended is not None for _, ended in result.selection):
            self.listener.skipped(len(self.grid.seeds))


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
