"""Laws of the ablations: the paper's values, on any task, and an overflow is a result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from propulsion_tools.cli import main
from propulsion_tools.compare.ablations import ABLATIONS, Ablation, ablation_grid
from propulsion_tools.compare.plan import cells, final_runs, named_tries
from propulsion_tools.compare.results import all_results
from propulsion_tools.errors import OptionError, UnknownNameError
from propulsion_tools.records.options import AblateOptions
from propulsion_tools.report.ablate import ablate
from tests.grids import Here

PAPER = {
    "degree": {0, 15, 25, 200, 500},
    "position": {"Embedding", "MLP", "Key", "Value", "Query", "K+Q+V", "All"},
    "initialization": {"zeros", "normal", "uniform", "xavier"},
    "vectors": {1, 2, 20},
    "pooling": {"mean", "max", "min", "l2"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_values_of_the_paper_are_there_and_each_row_changes_one_thing(name: str) -> None:
    assert set(ABLATIONS[name].rows) >= PAPER[name]
    grid = ablation_grid(name, AblateOptions(task=("sst2", "rte"), seeds=(1, 2)))
    assert grid.runs == len(ABLATIONS[name].rows) * 2 * 2
    specs = [final_runs(grid, cell, *named_tries(grid, cell))[0].spec for cell in cells(grid) if cell.task == "sst2"]
    assert len({spec.learning_rate for spec in specs}) == 1
    assert len(set(map(repr, specs))) == len(specs)


def test_the_rate_may_follow_the_degree() -> None:
    grid = ablation_grid("degree", AblateOptions(scale_rate=True))
    found = {cell.row: named_tries(grid, cell)[0].learning_rate for cell in cells(grid)}
    assert found["degree k = 1"] == 0.015
    assert found["degree k = 500"] == pytest.approx(0.015 / 500)
    with pytest.raises(OptionError, match="scale_rate"):
        AblateOptions(scale_rate=True, learning_rate=1e-3)


def test_unknown_studies_and_tasks_are_refused_with_near_misses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match="'degree'"):
        ablation_grid("degre", AblateOptions())
    assert main(["ablate", "pooling", "--task", "sst3"]) == 2
    assert "'sst2'" in capsys.readouterr().err


def test_an_overflow_is_recorded_shown_and_not_fatal(
    tiny_model: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(data_dir, tmp_path / "text-classification")
    monkeypatch.setattr("propulsion_tools.compare.command.make_backend", lambda options: Here())
    monkeypatch.setitem(ABLATIONS, "degree", Ablation("t", "f", "k", {k: {"degree": k} for k in (0, 15, 500)}))
    options = AblateOptions(
        task="text-classification",
        model_name_or_path=str(tiny_model),
        data_root=str(tmp_path),
        output_dir=str(tmp_path / "runs"),
        learning_rate=3.0,
        max_length=16,
        max_steps=4,
        use_cpu=True,
    )
    report = Path(ablate("degree", options)).read_text()
    results = {result.cell.row: result for result in all_results(ablation_grid("degree", options))}
    assert len(results["k = 0"].records) == 1
    assert "finite" in results["k = 500"].failures[0][1].error
    assert "finite" in report
    assert '"ablation"' in report
