"""From a grid to its runs: those that choose a learning rate, and those that count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from propulsion_tools.compare.grid import Grid, Settings
from propulsion_tools.methods import get_method
from propulsion_tools.records import RUN_FACTS, RunSpec, slug
from propulsion_tools.records.run_spec import BEFORE
from propulsion_tools.training.rate_plan import SELECTION_FRACTION, Try, rates_in_words, try_spec
from propulsion_tools.training.resolve import resolve

DEFAULTS: Settings = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
SELECTION: Settings = {"selection_fraction": SELECTION_FRACTION, "seed": 42, "forgetting_text": None}


@dataclass(frozen=True)
class Cell:
    """One row of the grid on one task at one size: what gets a learning rate of its own."""

    row: str
    task: str
    size: int | None


@dataclass(frozen=True)
class Run:
    """One run of the grid.

    Attributes:
        cell: What it belongs to.
        spec: What to run; its output_dir ends with the hash of all that it computes.
        is_final: Whether it counts, or chooses a learning rate.
        tried: The rates that it tries, and how much of a run that counts, or of what the grid's selection says, it is.
    """

    cell: Cell
    spec: RunSpec
    is_final: bool
    tried: Try | None = None

    def __hash__(self) -> int:
        """Of the folder, for the spec may hold dictionaries."""
        return hash(self.folder)

    @property
    def folder(self) -> str:
        """Where it writes."""
        return str(self.spec.output_dir)

    @property
    def name(self) -> str:
        """Of its folder, in that of the grid."""
        return Path(self.folder).name

    def __str__(self) -> str:
        size = f" · {self.cell.size:,} rows" if self.cell.size else ""
        share = self.tried.share if self.tried else 1.0
        choosing = "choosing" if share == 1.0 else f"choosing by {share:.0%} of a run"
        purpose = f"seed {self.spec.seed}" if self.is_final else choosing
        rate = self.tried.learning_rate if self.tried else float(self.spec.learning_rate or 0)
        rates = rates_in_words(rate, self.spec.head_learning_rate)
        return f"{self.cell.row} · {self.cell.task}{size} · lr {rates} · {purpose}"


def cells(grid: Grid) -> list[Cell]:
    """Task by task, so that a grid that is stopped early has whole tasks to show."""
    return [Cell(row, task, size) for task in grid.tasks for size in grid.train_sizes for row in grid.methods]


def usual_rates(grid: Grid, cell: Cell) -> Try:
    """The rates that the cell's method has where nothing is said."""
    spec = resolve(RunSpec(**_settings(grid, cell)))
    return Try(get_method(spec.method).learning_rate(spec), spec.head_learning_rate, 1.0)


def named_tries(grid: Grid, cell: Cell) -> list[Try]:
    """The rates that the cell chooses from, as long as the final runs; one where there is no choice.

    Not for a row whose rates are `AUTO`.
    """
    usual, rates = usual_rates(grid, cell), grid.rates(cell.row)
    return [replace(usual, learning_rate=float(rate)) for rate in rates] or [usual]


def selection_run(grid: Grid, cell: Cell, item: Try) -> Run:
    """The run that tries rates: as long as the grid's selection says, or a share of the final run, whatever it says."""
    own = {"learning_rate": item.learning_rate, "head_learning_rate": item.head_learning_rate}
    is_whole = item.share == 1.0
    said = {name: value for name, value in grid.selection.items() if is_whole or name in SELECTION}
    run = replace(_run(grid, cell, {**SELECTION, **said, **own}, False), tried=item)
    if is_whole:
        return run
    return _in_folder(grid, replace(run, spec=try_spec(run.spec, item)))


def final_runs(grid: Grid, cell: Cell, chosen: Try) -> list[Run]:
    """The runs that count, one for each seed, at the rates that were chosen."""
    rates = {"learning_rate": chosen.learning_rate, "head_learning_rate": chosen.head_learning_rate}
    return [_run(grid, cell, {"seed": seed, **rates}, True) for seed in grid.seeds]


def _settings(grid: Grid, cell: Cell) -> dict[str, Any]:
    merged = {**DEFAULTS, **grid.settings, **grid.tasks[cell.task], **grid.methods[cell.row]}
    if grid.data_root and not merged.get("data_dir") and not merged.get("dataset_name"):
        merged["data_dir"] = f"{grid.data_root}/{merged['task']}"
    if cell.size is not None:
        merged["max_train_samples"] = cell.size
    return merged


def _run(grid: Grid, cell: Cell, own: Mapping[str, Any], is_final: bool) -> Run:
    return _in_folder(grid, Run(cell, resolve(RunSpec(**{**_settings(grid, cell), **own})), is_final))


def _in_folder(grid: Grid, run: Run) -> Run:
    """The run with a folder that is named after it, and ends with the hash of all that it computes."""
    cell, spec = run.cell, run.spec
    words = [cell.task, cell.row, f"n{cell.size}" if cell.size else "", f"lr{spec.learning_rate:.3g}"]
    words.append(f"seed{spec.seed}" if run.is_final else "selection")
    name = slug("-".join(filter(None, words)))
    return replace(run, spec=replace(spec, output_dir=f"{grid.folder}/{name}-{spec_hash(spec)}"))


def spec_hash(spec: RunSpec) -> str:
    """Eight hexadecimal digits of what a resolved spec computes.

    Fields at their defaults do not count: at their first ones, or younger fields at what runs did without them.
    """
    usual = {**asdict(RunSpec()), **BEFORE}
    told = {name: value for name, value in asdict(spec).items() if RUN_FACTS[name].identity and value != usual[name]}
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
