"""Pages of panels as people meet them: nothing from the network, nothing cut off or overlapping on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propulsion_tools.inspection.inspect_adapter import inspect_adapter
from propulsion_tools.theory.kernel_figure import KernelSnapshot, names_with_room
from propulsion_tools.theory.kernel_html import kernels_page
from tests.browser import chromium
from tests.inspection.conftest import Save
from tests.inspection.test_gains import bert_deltas

LABELS = [name for name in ("networkx", "numpy", "a & b <c>", "transformers") for _ in range(6)]


def kernels() -> bytes:
    values = np.random.default_rng(0).normal(size=(24, 24))
    samples = [f"{label}: {number}" for number, label in enumerate(LABELS)]
    return kernels_page(
        [KernelSnapshot("before training", values, 0.1 * values)], "propulsion", LABELS, samples, "title"
    )


@pytest.fixture(params=["gains", "kernels"])
def file(request: pytest.FixtureRequest, save: Save, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.html"
    if request.param == "gains":
        inspect_adapter(save(bert_deltas(12)), path)
    else:
        path.write_bytes(kernels())
    return path


def test_a_phone_is_told_how_wide_it_is(file: Path) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in file.read_text(encoding="utf-8")


@pytest.fixture
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_cut_off_and_no_panel_touches_another(browser: Any, file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, is_mobile=width < 600)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn]")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.eval_on_selector_all(
        ".panels > div",
        "all => all.map(e => { const b = e.getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom]; })",
    )
    drawn = page.eval_on_selector_all("svg.main-svg", "all => all.map(e => e.getBoundingClientRect().width)")
    assert len(boxes) >= 4
    assert max(drawn) <= width
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert right - left > min(300, width - 30)
        for x, y, other_right, other_bottom in boxes[:number]:
            assert left >= other_right or right <= x or top >= other_bottom or bottom <= y
    for button in page.query_selector_all("button"):
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
    assert said == []


def test_names_that_would_touch_are_left_out_and_the_longest_stretch_is_named_first() -> None:
    assert [name for name, _ in names_with_room(LABELS, 5)] == ["networkx", "numpy", "a & b <c>", "transformers"]
    assert names_with_room(["a"] * 9 + ["b"] + ["c"] * 9, 6) == [("a", 4.0), ("c", 14.0)]
    assert names_with_room(["a" * 20], 1)[0][0] == "a" * 13 + "…"
