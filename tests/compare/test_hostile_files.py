"""What somebody else has left in the folders of a grid is never trusted, run or followed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from propulsion_tools.compare.plan import Cell, Run
from propulsion_tools.compare.run_folders import FAILURE_FILE, keep_results_only, read_failure
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import PREDICTIONS_FILE, RunRecord, RunSpec
from propulsion_tools.report.answers import read_answers
from propulsion_tools.report.tables import Table, TableCell
from propulsion_tools.report.write import as_markdown

RECORD = RunRecord(RunSpec(), {"validation": {}}, {}, 0, {}, 0, {})


def archive(**arrays: object) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{f"validation_{name}": np.asarray(array) for name, array in arrays.items()})
    return content.getvalue()


WHOLE = archive(labels=[0, 1], answers=[1, 1])
BROKEN = {
    "empty": b"",
    "no archive": b"PK\x03\x04zzzz",
    "half": WHOLE[: len(WHOLE) // 2],
    "one byte changed": WHOLE[:150] + bytes([WHOLE[150] ^ 255]) + WHOLE[151:],
    "pickled objects": archive(labels=np.array([{}, {}], dtype=object), answers=[1, 1]),
    "one number": archive(labels=0, answers=1),
    "more labels than answers": archive(labels=[0, 1, 1], answers=[1, 1]),
    "one array": WHOLE[WHOLE.index(b"\x93NUMPY") :],
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_are_no_answers(name: str, tmp_path: Path) -> None:
    run = Run(Cell("head", "docstrings", None), RunSpec(output_dir=str(tmp_path)), True)
    store = RunStore(tmp_path.parent)
    (tmp_path / PREDICTIONS_FILE).write_bytes(WHOLE)
    assert set(read_answers(store, run, RECORD)) == {"labels", "answers"}
    (tmp_path / PREDICTIONS_FILE).write_bytes(BROKEN[name])
    assert read_answers(store, run, RECORD) == {}


@pytest.mark.parametrize("text", ["{", "[1]", '{"error": null, "status": 1, "seconds": 1}', "[" * 100_000])
def test_a_failure_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / FAILURE_FILE).write_text(json.dumps({"error": "x", "status": 1, "seconds": 1}))
    assert read_failure(tmp_path) is not None
    (tmp_path / FAILURE_FILE).write_text(text)
    assert read_failure(tmp_path) is None


def test_links_in_a_runs_folder_are_removed_and_not_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere):
        folder.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (run / "link").symlink_to(elsewhere)
    (run / "nowhere").symlink_to(tmp_path / "missing")
    keep_results_only(run)
    assert not list(run.iterdir())
    assert (elsewhere / "mine.txt").read_text() == "mine"


def test_markdown_shows_labels_as_they_are() -> None:
    table = Table("scores", "Scores", "", ["<a>|b"], [("<mask>\n| x", [TableCell("<b>1 & 2")])])
    assert as_markdown(table).splitlines()[-1] == "| &lt;mask&gt; \\| x | &lt;b&gt;1 &amp; 2 |"
    assert as_markdown(table).startswith("| method | &lt;a&gt;\\|b |\n| --- | ---: |\n")
