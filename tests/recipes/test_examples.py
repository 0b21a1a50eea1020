"""The example files can be run, and the rows that they show can be read with their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from propulsion_tools.cli import main
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import DataSource, get_task

FOLDER = Path(__file__).parents[2] / "recipes"
EXAMPLES = sorted((FOLDER / "examples").glob("*.yaml"))


def test_there_are_five_and_no_other_files_than_examples_and_grids() -> None:
    assert len(EXAMPLES) == 5
    assert {path.name for path in FOLDER.iterdir()} == {"README.md", "compare", "examples"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_rows_that_an_example_shows_are_read(path: Path, tmp_path: Path) -> None:
    text = path.read_text("utf-8")
    assert f"Run: propulsion train --config recipes/examples/{path.name} --data_dir FOLDER" in text
    rows = re.findall(r"^#   (\{.*\})$", text, flags=re.MULTILINE)
    assert len(rows) == 2
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    spec = RunSpec.from_dict(yaml.safe_load(text))
    columns = (spec.text_column, spec.text_pair_column, spec.label_column)
    data = get_task(str(spec.task)).load(DataSource(str(tmp_path), None, None, *columns))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "validation": 2}
    assert not [note for note in data.notes if "column" in note], "a column was guessed"


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_takes_two_steps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(path), "--data_dir", "FOLDER", "--smoke", "--use_cpu", "--disable_tqdm"]
    assert main(["train", *words]) == 0
    assert list(tmp_path.iterdir()) == []
