"""Laws of runs of a grid that are trained together: which they are, and that each ends as it would alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.compare import command, local_backend
from propulsion_tools.compare.command import compare, grouping
from propulsion_tools.compare.groups import Grouping
from propulsion_tools.compare.local_backend import LocalProcesses
from propulsion_tools.compare.plan import Run, cells, final_runs, usual_rates
from propulsion_tools.compare.progress import GridProgress
from propulsion_tools.compare.run_folders import LOG_FILE, Failure
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.errors import OptionError
from propulsion_tools.records.options import AblateOptions, CompareOptions
from tests.grids import Here, MakeGrid, Notes
from tests.records.test_run_record import example

ALL = Grouping(finals=True, measure=False)


def runs_of(grid: Any) -> list[Run]:
    return [run for cell in cells(grid) for run in final_runs(grid, cell, usual_rates(grid, cell))]


def test_runs_on_the_same_rows_and_model_go_together(make_grid: MakeGrid) -> None:
    rows = {"own": {"method": "propulsion", "dropout": 0.1}, "short": {"method": "propulsion", "max_length": 8}}
    grid = make_grid(methods=["propulsion", "propulsion-attn", "lora"], variants=rows, seeds=[1, 2, 3])
    runs = runs_of(grid)
    assert {run.cell.row for run in ALL.first_group(runs, slots=1)} == {"propulsion", "propulsion-attn"}
    assert len(ALL.first_group(runs, slots=1)) == 6
    assert len(ALL.first_group(runs, slots=2)) == 3
    for row, count in (("lora", 1), ("own", 1), ("short", 3)):
        assert len(ALL.first_group([run for run in runs if run.cell.row == row], slots=1)) == count
    assert len(Grouping(finals=False, measure=True).first_group(runs, slots=1)) == 1


def test_what_is_trained_together_is_said_by_the_options() -> None:
    assert grouping(CompareOptions()) == Grouping(finals=False, measure=True)
    assert grouping(CompareOptions(joint=True)) == Grouping(finals=True, measure=False)
    assert grouping(AblateOptions(), costs_matter=False) == Grouping(finals=True, measure=True)
    assert grouping(CompareOptions(joint=False)) is None
    with pytest.raises(OptionError, match="backend local"):
        CompareOptions(joint=True, backend="ray")


def test_a_backend_that_runs_them_one_by_one_is_given_one_by_one(make_grid: MakeGrid) -> None:
    notes = Notes()
    run_grid(make_grid(methods=["propulsion"], seeds=[1, 2], settings={"max_steps": 1}), Here(), notes, grouping=ALL)
    assert len(notes.ran) == 2


def test_runs_of_a_grid_in_one_process(make_grid: MakeGrid, tmp_path: Path) -> None:
    rows = {"wrong": {"method": "propulsion", "degree_pattern": {"nothing": 2}}}
    rows |= {"low": {"method": "propulsion", "degree": 2}}
    grid = make_grid(methods=["propulsion"], variants=rows, settings={"max_steps": 3})
    first, wrong, low = run_grid(grid, LocalProcesses(1), Notes(), grouping=ALL)
    for result in (first, low):
        ((run, record),) = result.records
        assert record.joint == 2
        assert "in one batch" in (Path(run.folder) / LOG_FILE).read_text()
        assert record.apart is None
    ((_, failure),) = wrong.failures
    assert "nothing" in failure.error


def test_why_runs_are_not_trained_in_one_batch_is_told_once(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(grid: Any, backend: Any, progress: GridProgress, *_: Any) -> list[Any]:
        for run in runs_of(grid):
            if run.cell.row == "propulsion":
                progress.started(run)
                progress.ended(run, example(spec=run.spec, apart="an encoder-decoder reads two sequences"))
        return []

    monkeypatch.setattr(command, "run_grid", ran)
    grid = make_grid(methods=["lora", "head", "propulsion"], variants={"own": {"method": "propulsion", "dropout": 0.1}})
    grid = replace(grid, seeds=(1, 2))
    compare(grid, CompareOptions(joint=True))
    said = " ".join(capsys.readouterr().err.split())
    assert "lora and head are trained one run after the other: the method trains by another way than gains." in said
    assert "own is trained one run after the other: dropout is drawn for a whole batch at once." in said
    assert said.count("Trained one run after the other: an encoder-decoder reads two sequences.") == 1
    compare(grid, CompareOptions())
    assert "another way" not in capsys.readouterr().err  # they do as ever, and nobody has asked for more


def test_the_runs_of_a_process_that_died_are_run_alone(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone: list[str] = []

    def dies(specs: Sequence[Any], *args: Any, **kwargs: Any) -> list[Failure | None]:
        refused = Path(specs[1].output_dir)
        refused.mkdir(parents=True)
        (refused / "failure.json").write_text(json.dumps({"error": "of its own", "status": 2, "seconds": 0.0}))
        return [None, Failure("of its own", 2, 0.0), Failure("ended by SIGKILL", -9, 0.0)]

    def one(spec: Any, *args: Any, **kwargs: Any) -> None:
        alone.append(spec.output_dir)

    monkeypatch.setattr(local_backend, "train_together_in_process", dies)
    monkeypatch.setattr(local_backend, "train_in_process", one)
    runs = runs_of(make_grid(methods=["propulsion"], seeds=[1, 2, 3]))
    ended = LocalProcesses(1).submit_together(runs, measure=False).result()
    assert ended == [None, Failure("of its own", 2, 0.0), None]
    assert alone == [runs[2].folder]
