"""Grids of tiny runs, and a backend that trains them in this process: the same training, without the start of one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from propulsion.errors import PropulsionError
from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.grid_file import grid_from
from propulsion_tools.compare.plan import Cell, Run
from propulsion_tools.compare.run_folders import Failure, Outcome
from propulsion_tools.errors import ToolsError
from propulsion_tools.records import RunSpec
from propulsion_tools.training.run import train

MakeGrid = Callable[..., Grid]


def grids(tiny_model: Path, data_dir: Path, folder: Path) -> MakeGrid:
    """A maker of grids whose runs go to `folder`."""

    def make(**changes: Any) -> Grid:
        settings = {"model_name_or_path": str(tiny_model), "data_dir": str(data_dir), "max_length": 16, "max_steps": 4}
        settings |= {"per_device_train_batch_size": 8, "use_cpu": True, **changes.pop("settings", {})}
        values = {"methods": ["head"], "tasks": ["text-classification"], "output_dir": str(folder / "runs")}
        return grid_from({**values, "settings": settings, **changes}, "tiny")

    return make


class Here:
    """Runs in this process, one at a time; `order` is what it ran, `dies_after` raises as a kill would."""

    slots = 1

    def __init__(self, dies_after: int | None = None) -> None:
        self.order: list[Run] = []
        self.dies_after = dies_after

    def submit(self, run: Run) -> Future[Failure | None]:
        if self.dies_after is not None and len(self.order) >= self.dies_after:
            raise KeyboardInterrupt
        self.order.append(run)
        done: Future[Failure | None] = Future()
        done.set_result(attempt(run.spec))
        return done

    def close(self) -> None:
        """Nothing runs here when nothing is submitted."""


def attempt(spec: RunSpec) -> Failure | None:
    try:
        train(replace(spec, overwrite_output_dir=True))
    except (PropulsionError, ToolsError) as error:
        return Failure(str(error), 2, 0.0)
    return None


class Notes:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.ran: list[Run] = []
        self.earlier: list[Run] = []
        self.hopeless = 0

    def started(self, run: Run) -> None:
        self.ran.append(run)

    def ended(self, run: Run, outcome: Outcome, before: bool = False) -> None:
        self.earlier += [run] if before else []

    def skipped(self, cell: Cell, runs: int) -> None:
        self.hopeless += runs
