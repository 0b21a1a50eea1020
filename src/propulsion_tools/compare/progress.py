"""The progress of a whole grid, and how long it will still take."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import Cell, Run, cells
from propulsion_tools.compare.run_folders import Failure, Outcome
from propulsion_tools.tasks import get_task


class GridProgress:
    """Shows a bar for the grid and a line for each run under way; where there is no terminal, a line for each end.

    Args:
        grid: The grid.
        slots: How many runs there are at once.
        console: Where to print; standard error if not given.
    """

    def __init__(self, grid: Grid, slots: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, markup=False, highlight=False)
        self.left = Estimate(grid, slots)
        self._begun: dict[Run, float] = {}
        self._lines: dict[Run, TaskID] = {}
        self._earlier: Counter[str] = Counter()
        self._said: set[str] = set()
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._all = self._bars.add_task(f"grid {grid.name}", total=grid.runs, left="", count=f"0/{grid.runs}")

    def __enter__(self) -> GridProgress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._say_what_ran_earlier()
        self._bars.stop()

    def started(self, run: Run) -> None:
        """A run begins."""
        self._say_what_ran_earlier()
        self._begun[run] = time.monotonic()
        self._lines[run] = self._bars.add_task(f"  {run}", total=None, left="", count="")
        self._bars.update(self._all, left=self.left.words())

    def ended(self, run: Run, outcome: Outcome, before: bool = False) -> None:
        """A run has ended; `before`: an earlier start of the grid ran it."""
        seconds = None if before else time.monotonic() - self._begun.pop(run, time.monotonic())
        self.left.ended(run.cell, seconds)
        self._bars.update(self._all, advance=1, left=self.left.words(), count=f"{self.left.done}/{self.left.total}")
        if before:
            self._earlier["failed" if isinstance(outcome, Failure) else "finished"] += 1
            return
        if run in self._lines:
            self._bars.remove_task(self._lines.pop(run))
        count = f"[{self.left.done:>{len(str(self.left.total))}}/{self.left.total}]"
        parts = [f"{count} {run}: {in_words(run, outcome)}", f"{seconds:.0f} s"]
        parts += [self.left.words()] if not self.console.is_terminal else []
        self.console.print(" · ".join(filter(None, parts)), soft_wrap=True)
        if not isinstance(outcome, Failure) and outcome.apart:
            self.say(f"Trained one run after the other: {outcome.apart}.")

    def say(self, sentence: str) -> None:
        """Print something once, whoever says it again."""
        if sentence not in self._said:
            self._said.add(sentence)
            self.console.print(sentence, soft_wrap=True)

    def skipped(self, cell: Cell, runs: int) -> None:
        """So many runs of a cell will never be."""
        self.left.skipped(cell, runs)
        self._bars.update(self._all, total=self.left.total, count=f"{self.left.done}/{self.left.total}")

    def _say_what_ran_earlier(self) -> None:
        if self._earlier:
            there = " and ".join(f"{count} {what}" for what, count in self._earlier.items())
            hint = "; --retry_failed runs failed ones again" if self._earlier["failed"] else ""
            self.console.print(f"Found {there} from before{hint}.", soft_wrap=True)
            self._earlier.clear()


def in_words(run: Run, outcome: Outcome) -> str:
    """What came of a run, in words: its main metric on the split that it was for, or why it failed."""
    if isinstance(outcome, Failure):
        return f"failed: {outcome.error}"
    metric = get_task(str(run.spec.task)).main_metric
    split = next(iter(outcome.metrics), "")
    value = outcome.metrics.get(split, {}).get(metric)
    return f"{metric} {'not finite' if value is None else f'{value:.4f}'} ({split})"


class Estimate:
    """How long the rest of a grid takes, if each run takes as long as those of its row did, or else as any did.

    Args:
        grid: The grid.
        slots: How many runs there are at once.
    """

    def __init__(self, grid: Grid, slots: int) -> None:
        self.slots, self.total, self.done = slots, grid.runs, 0
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._waiting: Counter[str] = Counter()
        for cell in cells(grid):
            tried = grid.rate_count(cell.row)
            self._waiting[cell.row] += len(grid.seeds) + (tried if tried > 1 else 0)

    def ended(self, cell: Cell, seconds: float | None) -> None:
        """A run of this cell has ended; None: before anyone measured."""
        self.done += 1
        self._waiting[cell.row] -= 1
        if seconds is not None:
            self._seconds[cell.row].append(seconds)

    def skipped(self, cell: Cell, runs: int) -> None:
        """So many runs of this cell will never be."""
        self.total -= runs
        self._waiting[cell.row] -= runs

    def seconds(self) -> float | None:
        """Seconds left; None before the first run has ended."""
        measured = [value for values in self._seconds.values() for value in values]
        if not measured:
            return None
        usual = statistics.mean(measured)
        each = ((statistics.mean(self._seconds[row] or [usual]), count) for row, count in self._waiting.items())
        return sum(mean * max(0, count) for mean, count in each) / self.slots

    def words(self) -> str:
        """For people."""
        seconds = self.seconds()
        if seconds is None or self.done >= self.total:
            return ""
        minutes = round(seconds / 60)
        if minutes < 1:
            return "less than a minute left"
        return f"about {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f"about {minutes} min left"
