"""The page on tasks names every task, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from propulsion_tools.tasks import task_names

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"


def test_every_task_is_on_the_page() -> None:
    table = "\n".join(line.split("|")[2] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| "))
    listed = set(re.findall(r"`([a-z][a-z0-9_-]*)`", table))
    assert listed == {name for name in task_names() if not name.endswith("_ranking")}
