"""The commands that reproduce the runs behind each number of a report, ready to be pasted."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from typing import NamedTuple

from propulsion_tools.compare.plan import Run
from propulsion_tools.records import RunSpec
from propulsion_tools.report.summary import Column, Summary


class CellCommands(NamedTuple):
    """The runs of one cell of the grid."""

    anchor: str
    title: str
    runs: list[tuple[str, str]]
    """What each run is, and its command."""


def anchor(summary: Summary, row: str, column: Column) -> str:
    """Where the commands of a cell stand."""
    return f"run-{summary.rows.index(row) + 1}-{summary.columns.index(column) + 1}"


def commands(summary: Summary) -> list[CellCommands]:
    """For each cell of the grid the commands of its runs, those that count first."""
    made = []
    for row in summary.rows:
        for column in summary.columns:
            result = summary.result(row, column)
            runs = [run for run, _ in (*result.final, *result.selection)]
            title = f"{row} · {column.name}"
            made.append(CellCommands(anchor(summary, row, column), title, [(str(run), rerun(run)) for run in runs]))
    return made


def rerun(run: Run) -> str:
    """The command that reproduces a run, beside it and not over it."""
    return shlex.join(["propulsion", "train", *flags(replace(run.spec, output_dir=f"{run.folder}-again"))])


def flags(spec: RunSpec) -> list[str]:
    """The options of `propulsion train` that stand for a spec."""
    defaults = asdict(RunSpec())
    changed = {name: value for name, value in asdict(spec).items() if value != defaults[name]}
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changed.items()]
