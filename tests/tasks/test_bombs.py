"""A file that stands for far more than its size is refused before that much memory is taken."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.cli.parsing import parse
from propulsion_tools.compare.grid_file import read_grid
from propulsion_tools.compare.plan import Cell, Run
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import RunRecord, RunSpec, sizes
from propulsion_tools.report.answers import read_answers
from propulsion_tools.tasks.data_files import read_table

SMALL = 2**20


@pytest.fixture(autouse=True)
def _small_files_may_hold_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LEAST_ALLOWED", SMALL)


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * SMALL


@pytest.mark.usefixtures("little_memory")
def test_a_gzip_file_that_expands_a_thousandfold(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "train.jsonl.gz", "wb") as stream:
        for _ in range(32):
            stream.write(b" " * SMALL)
    with pytest.raises(DataError, match=r"train\.jsonl\.gz holds more than"):
        read_table(tmp_path / "train.jsonl.gz")


def test_a_gzip_file_of_text_is_read(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"a film of {number} stars", "label": 1}) + "\n" for number in range(25_000))
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    assert len(read_table(tmp_path / "train.jsonl.gz")["text"]) == 25_000


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", ["rows", "texts", "texts in lists"])
def test_a_parquet_file_that_repeats_one_value(kind: str, tmp_path: Path) -> None:
    one_text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 500, pyarrow.int32()), ["x" * 20_000])
    texts = one_text.dictionary_decode()
    columns = {
        "rows": {"label": pyarrow.array(np.zeros(4_000_000, dtype=np.int8))},
        "texts": {"text": one_text},
        "texts in lists": {"text": pyarrow.ListArray.from_arrays(list(range(0, 501, 100)), texts)},
    }
    pyarrow.parquet.write_table(pyarrow.table(columns[kind]), tmp_path / "train.parquet", compression="none")
    assert (tmp_path / "train.parquet").stat().st_size < 50_000
    with pytest.raises(DataError, match=r"train\.parquet holds more than"):
        read_table(tmp_path / "train.parquet")


def test_texts_of_a_parquet_file_stay_what_they_are(tmp_path: Path) -> None:
    columns = {"text": ["a", None, "a"], "bytes": [b"1", b"1", None], "many": [["a", "a"], [], None]}
    columns["made"] = [{"a": "x", "b": [None, "y"]}, None, {"a": None, "b": []}]
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    assert read_table(tmp_path / "train.parquet") == columns


@pytest.mark.usefixtures("little_memory")
def test_answers_that_expand_a_thousandfold_are_no_answers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    np.savez_compressed(folder / "eval_predictions.npz", validation_answers=np.zeros(32 * SMALL, dtype=np.int8))
    tracemalloc.reset_peak()
    record = RunRecord(RunSpec(), {"validation": {}}, {}, 0, {}, 0, {})
    run = Run(Cell("head", "docstrings", None), RunSpec(output_dir=str(folder)), True)
    assert read_answers(RunStore(tmp_path), run, record) == {}


def laughs(levels: int) -> str:
    """YAML whose last line stands for 9 to the power of `levels` texts."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("content", [laughs(9), "a: &a [*a]\n", "a: &a {b: 1}\n" + "c: {<<: *a}\n"])
def test_aliases_of_yaml_stand_for_what_they_stand_for(content: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(content + "methods: [head]\n")
    refusal = "aliases" if "<<" not in content else "key of a grid"
    with pytest.raises(ValueError, match=refusal):
        read_grid(tmp_path / "grid.yaml")
    (tmp_path / "run.yaml").write_text(f"{content}degree: *a{'8' if 'a8' in content else ''}\n")
    refusal = "aliases" if "<<" not in content else "option"
    with pytest.raises(ValueError, match=refusal):
        parse("train", COMMANDS["train"], ["--config", str(tmp_path / "run.yaml")])


def test_a_key_that_stands_twice_among_many_is_found(tmp_path: Path) -> None:
    keys = [*range(100_000), 99_999]
    (tmp_path / "train.jsonl").write_text("{" + ", ".join(f'"k{key}": 1' for key in keys) + "}\n")
    with pytest.raises(DataError, match="'k99999' twice"):
        read_table(tmp_path / "train.jsonl")
    (tmp_path / "grid.yaml").write_text("".join(f"k{key}: 1\n" for key in keys[-2_000:]))
    with pytest.raises(OptionError, match="'k99999' stands twice"):
        read_grid(tmp_path / "grid.yaml")
