"""Laws of the studies in docs: their archives hold every run of their grids, and give the reports beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from propulsion_tools.compare.grid_file import read_grid
from propulsion_tools.compare.results import all_results
from propulsion_tools.report.summary import Summary
from propulsion_tools.report.write import markdown, rows_as_csv

ROOT = Path(__file__).parents[2]


STUDIES = sorted(path.name for path in (ROOT / "docs" / "studies").iterdir())
LARGE = ("minilm", "development", "candidates")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else (), id=name) for name in STUDIES]
)
def test_the_archive_of_a_study_gives_its_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = ROOT / "docs" / "studies" / name
    shutil.copytree(study, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    grid = read_grid(ROOT / "recipes" / "compare" / f"{name}.yaml", data_root="data")
    results = all_results(grid)
    assert sum(outcome is not None for result in results for _, outcome in result.runs) == grid.runs
    summary = Summary(grid, results)
    assert markdown(summary) == (study / "report.md").read_text(encoding="utf-8")
    assert rows_as_csv(summary) == (study / "report.csv").read_text(encoding="utf-8")
