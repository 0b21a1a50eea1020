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
from propulsion_tools.training.resolve import resolve

DEFAULTS: Settings = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
SELECTION: Settings = {"selection_fraction": 0.15, "seed": 42}


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
    """

    cell: Cell
    spec: RunSpec
    is_final: bool

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
        purpose = f"seed {self.spec.seed}" if self.is_final else "choosing"
        return f"{self.cell.row} · {self.cell.task}{size} · lr {self.spec.learning_rate:.2g} · {purpose}"


def cells(grid: Grid) -> list[Cell]:
    """Task by task, so that a grid that is stopped early has whole tasks to show."""
    return [Cell(row, task, size) for task in grid.tasks for size in grid.train_sizes for row in grid.methods]


def candidate_rates(grid: Grid, cell: Cell) -> tuple[float, ...]:
    """The learning rates that the cell chooses from."""
    if explicit := grid.explicit_rates(cell.row):
        return explicit
    spec = RunSpec(**_settings(grid, cell))
    own = get_method(spec.method).learning_rate(spec)
    return tuple(float(f"{own * factor:.4g}") for factor in grid.rate_factors)


def selection_runs(grid: Grid, cell: Cell) -> list[Run]:
    """The runs that choose the learning rate; none where there is but one."""
    tried = candidate_rates(grid, cell)
    if len(tried) == 1:
        return []
    return [_run(grid, cell, {**SELECTION, **grid.selection, "learning_rate": rate}, False) for rate in tried]


def final_runs(grid: Grid, cell: Cell, rate: float) -> list[Run]:
    """The runs that count, one for each seed, at the rate that was chosen."""
    return [_run(grid, cell, {"seed": seed, "learning_rate": rate}, True) for seed in grid.seeds]


def _settings(grid: Grid, cell: Cell) -> dict[str, Any]:
    merged = {**DEFAULTS, **grid.settings, **grid.tasks[cell.task], **grid.methods[cell.row]}
    if grid.data_root and not merged.get("data_dir") and not merged.get("dataset_name"):
        merged["data_dir"] = f"{grid.data_root}/{merged['task']}"
    if cell.size is not None:
        merged["max_train_samples"] = cell.size
    return merged


def _run(grid: Grid, cell: Cell, own: Mapping[str, Any], is_final: bool) -> Run:
    spec = resolve(RunSpec(**{**_settings(grid, cell), **own}))
    words = [cell.task, cell.row, f"n{cell.size}" if cell.size else "", f"lr{spec.learning_rate:.3g}"]
    words.append(f"seed{spec.seed}" if is_final else "selection")
    name = slug("-".join(filter(None, words)))
    return Run(cell, replace(spec, output_dir=f"{grid.folder}/{name}-{spec_hash(spec)}"), is_final)


def spec_hash(spec: RunSpec) -> str:
    """Eight hexadecimal digits of what a resolved spec computes.

    Fields at their defaults do not count, younger ones at what runs did before there were these fields.
    """
    usual = {**asdict(RunSpec()), **BEFORE}
    told = {name: value for name, value in asdict(spec).items() if RUN_FACTS[name].identity and value != usual[name]}
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
