"""The report as people meet it: in a browser, on a phone, as Markdown and CSV, all with the same numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.run_folders import Failure, write_failure
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.report.paper_scores import paper_score
from propulsion_tools.report.summary import ranked
from propulsion_tools.report.write import write_report
from tests.browser import chromium
from tests.grids import Here, MakeGrid, Notes, grids


@pytest.fixture(scope="module")
def finished(tiny_model: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Path]:
    """A grid of three methods, two seeds, a chosen rate and a failure, with its report."""
    folder = tmp_path_factory.mktemp("report")
    grid = grids(tiny_model, data_dir, folder)(
        methods=["full", "head", "propulsion-all"],
        variants={"two <vectors>": {"method": "propulsion-all", "num_vectors": 2, "init_noise": 0.1}},
        seeds=[1, 2],
        learning_rates={"head": [1e-3, 5e-3]},
        settings={"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "max_steps": 6},
        title="Tiny <models>",
        notes="Only a test.",
    )
    run_grid(grid, Here(), Notes())
    doomed = next(run for result in all_results(grid) for run, _ in result.final if run.cell.row.startswith("two"))
    (Path(doomed.folder) / "record.json").unlink()
    write_failure(Path(doomed.folder), Failure("the loss became nan", 2, 1.0))
    return grid, write_report(grid, all_results(grid))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(finished: tuple[Grid, Path], browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report in a browser that must not complain and must not ask the network for anything."""
    said: list[str] = []
    asked: list[str] = []
    opened = browser.new_page(viewport={"width": getattr(request, "param", 1280), "height": 800})
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(finished[1].as_uri())
    opened.wait_for_selector("html[data-drawn]")
    yield opened
    opened.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def column(page: Any, number: int) -> list[str]:
    texts: list[str] = page.eval_on_selector_all(
        "#scores tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{number}].innerText.split('\\n')[0])"
    )
    return texts


@pytest.mark.slow
def test_it_sorts_filters_and_draws(page: Any) -> None:
    assert page.title() == "Tiny <models>"
    assert column(page, 0) == ["full", "head", "propulsion-all", "two <vectors>"]
    for descending in (True, False):
        page.click("#scores thead th:nth-child(2) button")
        counts = [int(text.replace(",", "")) for text in column(page, 1)]
        assert counts == sorted(counts, reverse=descending)
        assert len(set(counts)) == 4
    page.fill(".filter input", "propul all")
    assert column(page, 0) == ["propulsion-all"]
    assert page.inner_text(".filter output") == "1 of 4 rows"
    page.fill(".filter input", "")
    assert len(column(page, 0)) == 4
    figures = page.eval_on_selector_all("figure", "all => all.map(f => f.querySelectorAll('svg .points path').length)")
    lines = page.eval_on_selector_all(
        "figure", "all => all.map(f => f.querySelectorAll('svg .scatterlayer .js-line').length)"
    )
    assert len(figures) == 9
    assert all(points or drawn for points, drawn in zip(figures, lines, strict=True))
    assert max(lines) == 4


@pytest.mark.slow
def test_every_number_leads_to_a_command(page: Any, finished: tuple[Grid, Path]) -> None:
    links = page.eval_on_selector_all("td a", "all => all.map(a => [a.innerText, a.getAttribute('href')])")
    assert len(links) > 20
    for _, link in links:
        assert page.inner_text(f"[id='{link[1:]}'] code >> nth=0").startswith("propulsion train --")
    page.click("#scores tbody tr:nth-child(2) td:nth-child(3) a")
    assert page.evaluate("document.querySelector('.run:target h3').innerText").startswith("head ·")


@pytest.mark.slow
@pytest.mark.parametrize("page", [390], indirect=True)
def test_on_a_phone_nothing_is_cut_off(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    widths = page.eval_on_selector_all("figure svg.main-svg", "all => all.map(s => s.getBoundingClientRect().width)")
    assert max(widths) <= 390


def test_all_three_say_the_same(finished: tuple[Grid, Path]) -> None:
    grid, file = finished
    rows = list(csv.DictReader((grid.folder / "report.csv").open(encoding="utf-8")))
    accuracy = {row["method"]: row for row in rows if row["metric"] == "accuracy"}
    assert set(accuracy) == set(grid.methods)
    markdown, html = (grid.folder / "report.md").read_text(), file.read_text()
    assert all("-again" in line for line in markdown.splitlines() if line.startswith("propulsion train "))
    for result in all_results(grid):
        values = [record.metrics["validation"]["accuracy"] for _, record in result.records]
        row = accuracy[result.cell.row]
        assert float(row["mean"]) == pytest.approx(sum(values) / len(values))
        shown = f"{100 * float(row['mean']):.1f}" + (f" ± {100 * float(row['std']):.1f}" if row["std"] else "")
        assert shown in markdown
        assert shown in html
    assert "the loss became nan" in markdown
    assert "<models>" not in re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)


def test_full_fine_tuning_gets_no_mark_and_is_nobodys_peer(finished: tuple[Grid, Path]) -> None:
    rows = list(csv.DictReader((finished[0].folder / "report.csv").open(encoding="utf-8")))
    assert {row["rank"] for row in rows if row["method"] == "full"} == {""}
    assert "full" not in {row["peer"] for row in rows}
    assert {row["peer"] for row in rows if row["method"] == "propulsion-all"} == {"", "head"}


def test_equals_share_a_place_but_not_all_of_them() -> None:
    assert ranked({"a": 0.5, "b": 0.7, "c": 0.7, "d": 0.1}, True) == {"b": 1, "c": 1, "a": 2}
    assert ranked({"a": 0.5, "b": 0.7}, False) == {"a": 1, "b": 2}
    assert ranked({"a": 0.0, "b": 0.0, "c": 0.0}, True) == {}
    assert ranked({"a": 0.0}, True) == {"a": 1}


def test_a_report_of_nothing_yet_can_be_written(make_grid: MakeGrid) -> None:
    grid = make_grid()
    text = write_report(grid, all_results(grid)).read_text()
    assert "1 final run is still missing" in text


def test_the_papers_number_stands_beside_the_same_model_task_and_method_alone() -> None:
    assert paper_score("FacebookAI/roberta-base", "propulsion-all", "sst2", "accuracy") == 93.18
    assert paper_score("roberta-large", "bitfit", "cola", "mcc") == 66.72
    assert paper_score("roberta-base", "propulsion-all", "squad", "f1") is None
    assert paper_score("deberta-v3-base", "lora", "squad_v2", "f1") == 85.75
    assert paper_score("minilm", "propulsion-all", "sst2", "accuracy") is None
    assert paper_score("bart-large", "propulsion-attn", "cnn_dailymail", "rougeLsum") == 35.03
    assert paper_score("bart-large", "propulsion-attn", "cnn_dailymail", "rougeL") is None
    assert paper_score("bart-large", "propulsion-attn", "xsum", "rougeL") == 29.25
