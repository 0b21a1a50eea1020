"""A run is read from top to bottom: `train` enters a file, leaves it, and comes back at most once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import propulsion_tools
from propulsion_tools.records import RunSpec
from propulsion_tools.training import run

HOUSE = str(Path(propulsion_tools.__file__).parent)


def is_attribute(frame: FrameType) -> bool:
    """Whether the call reads a property, for which nobody leaves the page."""
    owner = type(frame.f_locals.get("self"))
    return isinstance(getattr(owner, frame.f_code.co_name, None), property)


def files_entered(function: Callable[[], Any], home: str) -> tuple[list[str], set[str]]:
    """The files of the house that `home` calls, in order, and those that call it back."""
    entered: list[str] = []
    climbs: set[str] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        caller = frame.f_back
        if event != "call" or caller is None:
            return
        file, before = frame.f_code.co_filename, caller.f_code.co_filename
        if before == home and file.startswith(HOUSE) and file != home and not is_attribute(frame):
            entered.append(Path(file).stem)
        if file == home and before.startswith(HOUSE) and before != home:
            climbs.add(Path(before).stem)

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return [name for name, _ in groupby(entered)], climbs


def test_train_comes_back_to_a_file_at_most_once(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec(max_steps=1)
    stays, climbs = files_entered(lambda: run.train(spec), run.__file__)
    # Small helpers of records and errors are words, not places.
    stays = [name for name, _ in groupby(name for name in stays if name not in ("fields", "run_spec", "notify"))]
    assert {"resolve", "checkpoints", "data", "build", "trainer", "scoring", "measure", "run_record"} <= set(stays)
    assert stays.index("resolve") < stays.index("data") < stays.index("build") < stays.index("trainer")
    assert stays.index("trainer") < stays.index("scoring") < stays.index("run_record")
    assert {name for name, count in Counter(stays).items() if count > 2} == set()
    assert climbs == set()
