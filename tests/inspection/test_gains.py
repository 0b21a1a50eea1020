"""Laws of `propulsion inspect`: the text tells what was saved, a figure stands alone, bad input leaves nothing."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from propulsion.errors import AdapterFileError
from propulsion_tools.errors import MissingExtraError, OptionError
from propulsion_tools.inspection import distribution
from propulsion_tools.inspection.distribution import start
from propulsion_tools.inspection.gain_tables import BAR, bar, number
from propulsion_tools.inspection.heatmap_image import distinct
from propulsion_tools.inspection.heatmap_panels import HALF_LINE, lines_of, panels, reach
from propulsion_tools.inspection.inspect_adapter import inspect_adapter
from propulsion_tools.inspection.saved_adapter import read_adapter
from tests.inspection.conftest import Save, bert_deltas


def test_the_text_tells_what_was_saved(save: Save) -> None:
    deltas = bert_deltas()
    folder = save(
        deltas, {"classifier.weight": np.ones((2, 16))}, modules_to_save=["classifier"], degree_pattern={"query": 55}
    )
    text = inspect_adapter(folder, None)
    size = (folder / "adapter_model.safetensors").stat().st_size
    total = sum(delta.size for delta in deltas.values())
    for fact in ("org/base", "15 in 13 layers, 55 in 12 layers", f"{total:,}", "32 (classifier)", f"{size:,} bytes"):
        assert fact in text
    query = np.concatenate([(1.0 + delta.astype(float)) ** 55 for name, delta in deltas.items() if "query" in name])
    row = next(line for line in text.splitlines() if line.startswith("query"))
    quantiles = np.quantile(query, [0, 0.05, 0.5, 0.95, 1])
    expected = [*quantiles, query.std(), np.sqrt(np.mean((query - 1) ** 2))]
    assert row.split()[1:9] == ["12", *map(number, expected)]


def test_the_text_is_plain_and_narrow_when_piped(save: Save) -> None:
    text = inspect_adapter(save(bert_deltas()), None)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_a_terminal_gets_styles(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1m" in inspect_adapter(save(bert_deltas(1)), None)


def test_blocks_come_in_natural_order_and_the_most_moved_first(save: Save) -> None:
    deltas = bert_deltas()
    deltas["bert.encoder.layer.7.intermediate.dense"] += 0.1
    lines = inspect_adapter(save(deltas), None).splitlines()
    blocks = [line.split()[1] for line in lines if line.startswith("block")]
    assert blocks == 2 * [str(block) for block in range(12)]
    first = next(position for position, line in enumerate(lines) if line.startswith("layer ")) + 2
    assert lines[first].startswith("bert.encoder.layer.7.intermediate.dense")
    assert len([line for line in lines[first:] if line.startswith("bert.")]) == 10


def test_an_identity_is_called_one(save: Save) -> None:
    text = inspect_adapter(save({name: 0 * delta for name, delta in bert_deltas(1).items()}), None)
    assert "changes nothing" in text


def test_ticks_never_read_alike() -> None:
    gains = (0.98, 0.99, 1, 1.01, 1.02)
    assert distinct([gain ** (1 / 15) for gain in gains]) == ["0.9987", "0.9993", "1.0000", "1.0007", "1.0013"]
    assert distinct(["", 0.5, 1, 1.5]) == ["", "0.500", "1.000", "1.500"]
    assert len(set(distinct([1 - 1e-9, 1, 1 + 1e-9]))) == 3


def test_bars_are_as_long_as_their_values() -> None:
    assert [len(bar(value, 8)) for value in (0, 4, 8)] == [0, BAR // 2, BAR]
    assert bar(0, 0) == ""


@pytest.mark.parametrize(("suffix", "vectors"), [(".html", 1), (".html", 3), (".PNG", 1), (".png", 3), (".svg", 1)])
def test_figures_are_written(save: Save, tmp_path: Path, suffix: str, vectors: int) -> None:
    folder = save(bert_deltas(2, vectors), num_vectors=vectors, pooling="max", degree=list(range(1, vectors + 1)))
    file = tmp_path / f"figure{suffix}"
    assert str(file) in inspect_adapter(folder, file)
    start = {".html": b"<html", ".png": b"\x89PNG", ".svg": b"<?xml"}[suffix.lower()]
    assert start in file.read_bytes()[:100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", file.name]


@pytest.mark.parametrize(("blocks", "vectors"), [(12, 1), (1, 2)])
def test_the_distribution_is_drawn_beside_the_heat_map(save: Save, tmp_path: Path, blocks: int, vectors: int) -> None:
    folder = save(bert_deltas(blocks, vectors), num_vectors=vectors)
    files = tmp_path / "gains.png", tmp_path / "z.svg"
    text = inspect_adapter(folder, *files)
    assert all(str(file) in text and file.stat().st_size for file in files)
    with pytest.raises(OptionError, match=r"\.png, \.svg"):
        inspect_adapter(folder, None, tmp_path / "z.html")


@pytest.mark.parametrize(("fields", "said"), [({}, "every z was 1"), ({"init_noise": 0.1}, "at random")])
def test_what_is_known_of_the_start_is_said(save: Save, fields: dict[str, float], said: str) -> None:
    assert said in start(read_adapter(save(bert_deltas(1), **fields)))


def test_the_html_needs_no_network(save: Save, tmp_path: Path) -> None:
    folder = save(bert_deltas(2))
    inspect_adapter(folder, tmp_path / "figure.html")
    page = (tmp_path / "figure.html").read_text(encoding="utf-8")
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page[:5000] + page[-200_000:])
    assert tags
    assert not [tag for tag in tags if re.search(r"(?:src|href)\s*=", tag)]
    assert "<title>propulsion inspect: adapter</title>" in page


def test_a_figure_shows_every_value(save: Save) -> None:
    deltas = bert_deltas()
    adapter = read_adapter(save(deltas, degree=3))
    shown = panels(adapter, "gain")
    assert [(panel.kind, len(panel.rows)) for panel in shown] == [("embedding", 1), ("query", 12), ("mlp", 12)]
    assert shown[1].rows == tuple(map(str, range(12)))
    for block, row in enumerate(shown[1].values):
        delta = deltas[f"bert.encoder.layer.{block}.attention.self.query"][0].astype(float)
        np.testing.assert_allclose(row, (1 + delta) ** 3, rtol=1e-5)
    distances = np.concatenate([np.abs(panel.values - 1).ravel() for panel in shown])
    assert reach(shown) == pytest.approx(np.quantile(distances, 0.99))


def test_panels_of_several_vectors_have_rows_of_their_own(save: Save) -> None:
    adapter = read_adapter(save(bert_deltas(1, 2), num_vectors=2, pooling="min", degree=[1, 2]))
    assert panels(adapter, "gain")[1].rows == ("0 V≥0", "0 V<0")
    assert panels(adapter, "z")[1].rows == ("0 z1", "0 z2")


def test_wide_panels_have_a_line_of_their_own(save: Save) -> None:
    narrow = panels(read_adapter(save(bert_deltas(2))), "gain")
    assert [len(line) for line in lines_of(narrow)] == [1, 2]
    wide = [type(panel)(panel.kind, "", panel.rows, np.ones((len(panel.rows), HALF_LINE + 1))) for panel in narrow]
    assert [len(line) for line in lines_of(wide)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [("figure.jpg", r"\.html, \.png, \.svg"), ("figure", "must end in"), ("nowhere/figure.png", "no folder")],
)
def test_a_figure_that_cannot_be_is_refused_first(save: Save, tmp_path: Path, name: str, message: str) -> None:
    folder = save(bert_deltas(1))
    with pytest.raises(OptionError, match=message):
        inspect_adapter(folder, tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OptionError, match="is a folder"):
        inspect_adapter(folder, tmp_path / "folder.png")


def test_a_damaged_adapter_leaves_no_figure(save: Save, tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError):
        inspect_adapter(save({"query": [[np.inf]]}), tmp_path / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_failed_write_keeps_the_figure_that_was_there(save: Save, tmp_path: Path) -> None:
    file = tmp_path / "figure.svg"
    file.write_text("before")
    folder, full = save(bert_deltas(1)), OSError(28, "No space left")
    with mock.patch.object(os, "replace", side_effect=full), pytest.raises(OptionError, match="No space left"):
        inspect_adapter(folder, file)
    assert file.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "figure.svg"]


@pytest.mark.parametrize(("module", "extra"), [("plotly", "report"), ("rich", "train")])
def test_a_missing_package_names_its_extra(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    def refuse(name: str) -> object:
        if name == module:
            raise ImportError(name)
        return importlib.__import__(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=rf"pip install .*\[{extra}\]"):
        inspect_adapter(save(bert_deltas(1)), tmp_path / "figure.html")


@pytest.mark.parametrize("moved", [0.003, 0.3])
def test_numbers_on_the_axes_of_the_distribution_can_be_read(
    moved: float, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    kept = distribution.figure_bytes
    monkeypatch.setattr(
        distribution, "figure_bytes", lambda figure, kind: (drawn.append(figure), kept(figure, kind))[1]
    )
    folder = save({name: delta * moved / 0.02 for name, delta in bert_deltas(2).items()})
    distribution.draw_distribution(read_adapter(folder), "png")
    for axes in drawn[0].axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        ends = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in labels))
        assert all(left[1] < right[0] for left, right in itertools.pairwise(ends))
        assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))
        assert "$" not in "".join(label.get_text() for label in axes.get_yticklabels())
