"""A folder is read the same in every format, and what is not what its name says is refused with the way out."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from propulsion.errors import PropulsionError
from propulsion_tools.errors import DataError, ToolsError
from propulsion_tools.tasks.data_files import read_folder, read_table, split_name

ROWS = [
    {"sentence": 'a "quoted", and\nbroken line', "label": "no"},
    {"sentence": "plain ünïcode 文", "label": "yes"},
    {"sentence": "  spaces  ", "label": "no"},
]
TABLE = {"sentence": [row["sentence"] for row in ROWS], "label": ["no", "yes", "no"]}


def _jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", "utf-8")


def _jsonl_gz(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


def _json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=2), "utf-8")


def _csv(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, ["sentence", "label"])
        writer.writeheader()
        writer.writerows(ROWS)


def _parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(TABLE), path)


WRITERS = {
    "train.jsonl": _jsonl,
    "TRAIN.JSONL": _jsonl,
    "train.jsonl.gz": _jsonl_gz,
    "train.json": _json,
    "train.csv": _csv,
    "train.parquet": _parquet,
    "train-00000-of-00001.parquet": _parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_in_their_order(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert read_folder(str(tmp_path)).tables == {"train": TABLE}


def test_shards_are_put_together_in_order(tmp_path: Path) -> None:
    for shard in range(2):
        _parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    assert read_folder(str(tmp_path)).tables["train"] == {name: values * 2 for name, values in TABLE.items()}


def test_a_tsv_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('sentence\tlabel\nan "odd quote\t1\n', "utf-8")
    assert read_folder(str(tmp_path)).tables["train"] == {"sentence": ['an "odd quote'], "label": ["1"]}


def test_long_fields_are_read_and_leave_no_trace(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "train.csv").write_text(f"sentence,label\n{'x' * 200_000},1\n", "utf-8")
    assert len(read_folder(str(tmp_path)).tables["train"]["sentence"][0]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("dev", "validation"),
        ("val", "validation"),
        ("valid", "validation"),
        ("test", "test"),
        ("dev_matched", "validation_matched"),
        ("validation-mismatched", "validation_mismatched"),
        ("labels", None),
        ("trainer", None),
    ],
)
def test_a_split_is_known_by_its_usual_names(stem: str, split: str | None) -> None:
    assert split_name(stem) == split


def test_files_of_no_split_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    _csv(tmp_path / "train.csv")
    (tmp_path / "labels.csv").write_bytes(b"\0 never read")
    (tmp_path / "README.md").write_text("never mentioned")
    raw = read_folder(str(tmp_path))
    assert list(raw.tables) == ["train"]
    assert raw.notes == (f"Left out of {tmp_path}, not named after a split: labels.csv.",)


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


BAD = {
    "empty folder": (lambda folder: None, "no training file.*It is empty"),
    "no training file": (_write("test.csv", b"a,b\n1,2\n"), "no training file.*It has test.csv"),
    "empty file": (_write("train.jsonl", b""), "train.jsonl is empty"),
    "header only": (_write("train.csv", b"sentence,label\n"), "train.csv is empty"),
    "empty array": (_write("train.json", b"[]"), "train.json is empty"),
    "broken line": (_write("train.jsonl", b'{"a": 1}\n\n{"a": \n'), "train.jsonl, line 3 is not JSON"),
    "line of another kind": (_write("train.jsonl", b'{"a": 1}\n3\n'), "line 2 is not a JSON object"),
    "item of another kind": (_write("train.json", b'[{"a": 1}, 3]'), "item 2 is not a JSON object"),
    "csv named jsonl": (_write("train.jsonl", b"sentence,label\na,1\n"), "line 1 is not JSON"),
    "not gzip": (_write("train.jsonl.gz", b'{"a": 1}\n'), "not a whole gzip file.*drop the .gz"),
    "half a gzip": (_write("train.csv.gz", gzip.compress(b"a,b\n" * 999)[:40]), "not a whole gzip file"),
    "damaged gzip": (_write("train.csv.gz", gzip.compress(b"a,b\n" * 999)[:12] + b"\xff" * 40), "not a whole gzip"),
    "gzip unnamed": (_write("train.jsonl", gzip.compress(b"{}")), "compressed with gzip: add .gz"),
    "text named parquet": (_write("train.parquet", b"sentence,label\na,1\n"), "not a parquet file"),
    "half a parquet": (_write("train.parquet", b"PAR1 and then nothing"), "damaged parquet file"),
    "parquet named csv": (_write("train.csv", b"PAR1 and more"), "binary file"),
    "binary csv": (_write("train.csv", b"sentence,label\n" + bytes(range(32))), "binary file"),
    "late binary": (_write("train.csv", b"a,b\n" + b"1,2\n" * 99_999 + b"\0,\0\n"), "binary file"),
    "latin-1": (_write("train.csv", b"sentence,label\nb,0\ncaf\xe9,1\n"), "line 3 is not UTF-8"),
    "ragged csv": (_write("train.csv", b"sentence,label\na,1\nb,c,0\n"), "line 3 has 3 fields, the header has 2"),
    "open quote": (_write("train.csv", b'sentence,label\n"a,1\n'), "is not CSV"),
    "column twice": (_write("train.csv", b"label,label\na,1\n"), "line 1 must name the columns, each once"),
    "two files": (
        lambda folder: [_write(name, b"a,b\n1,2\n")(folder) for name in ("train.csv", "train.tsv")] and None,
        "train.csv, train.tsv for the split 'train': keep one",
    ),
    "two names": (
        lambda folder: [_write(name, b"a,b\n1,2\n")(folder) for name in ("train.csv", "dev.csv", "val.csv")] and None,
        "dev.csv, val.csv for the split 'validation': keep one",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_what_its_name_says_is_refused(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_folder(str(tmp_path))
    assert isinstance(caught.value, PropulsionError | ToolsError)
    assert isinstance(caught.value, ValueError)


def test_a_missing_folder_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist: give a folder with a train file"):
        read_folder(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"is a file, not a folder"):
        read_folder(str(tmp_path / "file"))


def test_a_format_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"should end in .jsonl, .json, .csv"):
        read_table(tmp_path / "rows.xlsx")
