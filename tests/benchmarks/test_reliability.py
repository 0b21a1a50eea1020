"""The page of what kills and damaged files cost says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import reliability


def test_the_page_is_that_of_the_results() -> None:
    chaos, fuzz = (json.loads((reliability.RESULTS / name).read_text()) for name in ("chaos.json", "fuzz.json"))
    said = "docs/reliability.md is out of date: run `python benchmarks/reliability.py`"
    assert reliability.PAGE.read_text() == reliability.page(chaos, fuzz), said
    assert chaos["kinds"]["kill"]["trials"] >= 1000
    assert chaos["kinds"]["checkpoint"]["trials"] + chaos["kinds"]["adapter"]["trials"] >= 200
    assert {row["lost"] for row in chaos["kinds"].values()} == {0}


def test_what_was_lost_is_on_the_page() -> None:
    row = {"trials": 9, "same": 5, "refused": 1, "lost": 3, "kills": 1234, "ways": {}}
    ways = {"kill": {"change + moment": 4, "change": 5}, "disk": {"EIO, refused": 2, "EIO, in time": 1}}
    kinds = {kind: {**row, "ways": ways.get(kind, {})} for kind in reliability.KINDS}
    fuzz = {"inputs": 10, "date": "2026-01-02", "rows": [{"failures": 2}, {"failures": 5}]}
    page = reliability.page({"date": "2026-01-01", "settings": 36, "kinds": kinds}, fuzz)
    assert "| Runs that were killed | 9 | 5 | 1 | 3 |" in page
    assert "| just before a change of the file system | 9 |" in page
    assert "| every change: input/output error | 3 |" in page
    assert "of 10 damaged files of 2 kinds (2026-01-02), 7 were neither" in page
