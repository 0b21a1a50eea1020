"""A folder with one file per split, read into columns.

Every file is read strictly: one that is not what its name says is an error that names the file, the place and the way
out, and then nothing is loaded.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any, Literal

from propulsion_tools.errors import DataError, require
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows, length

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_FILE = re.compile(r"(?P<stem>.+?)(?P<shard>-\d+-of-\d+)?(?P<format>\.(jsonl|json|csv|tsv|parquet))(?P<gz>\.gz)?")
_SPLIT = re.compile(r"(train|training|validation|valid|val|dev|eval|test)([_-].+)?")
_ALIASES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


def read_folder(data_dir: str, training: bool = True) -> RawSplits:
    """Read every split file of a folder: train and validation (or dev, val, valid), test, and variants such as
    validation_matched, as .jsonl, .json, .csv, .tsv (each also with .gz) or .parquet, in shards or whole.

    Args:
        data_dir: The folder.
        training: Whether it must have a training file; any split will do otherwise.

    Raises:
        DataError: There is no such folder or no file of a split, a split has two files, or a file cannot be read.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data_dir {data_dir} {what}: give a folder with a train file ({', '.join(FORMATS)}).")
    files, others = _split_files(folder)
    if "train" not in files if training else not files:
        there = (
            f"It has {_listed(path.name for path in folder.iterdir())}." if any(folder.iterdir()) else "It is empty."
        )
        raise DataError(f"{data_dir} has no training file: name one train{FORMATS[0]}, train.csv or the like. {there}")
    tables = {split: _concatenate([read_table(path) for path in paths]) for split, paths in files.items()}
    notes = [f"Left out of {data_dir}, not named after a split: {_listed(others)}."] if others else []
    return RawSplits(tables, tuple(notes))


def split_name(stem: str) -> str | None:
    """The split that a name stands for ("dev_matched" is "validation_matched"), or None if it stands for none."""
    match = _SPLIT.fullmatch(stem.lower())
    if match is None:
        return None
    return _ALIASES.get(match[1], match[1]) + (match[2] or "").replace("-", "_")


def read_table(path: Path) -> Table:
    """Read one file by the format that its name says.

    Raises:
        DataError: The file is empty, or is not what its name says.
    """
    match = _FILE.fullmatch(path.name.lower())
    if match is None:
        raise DataError(f"Cannot read {path}: it should end in {', '.join(FORMATS)}, or one of the text forms and .gz.")
    kind = match["format"]
    if kind == ".parquet":
        table = _parquet(path)
    else:
        text = _text(path, zipped=bool(match["gz"]))
        table = (
            _delimited(text, path, "\t" if kind == ".tsv" else ",") if kind in (".csv", ".tsv") else _json(text, path)
        )
    if not length(table):
        raise DataError(f"{path} is empty: it has no rows.")
    return table


def _split_files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each split, and the names of the data files that belong to none."""
    files: dict[str, list[Path]] = {}
    forms: dict[str, set[tuple[str, bool]]] = {}
    others = []
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.name.lower())
        if match is None or path.name.startswith(".") or not path.is_file():
            continue
        split = split_name(match["stem"])
        if split is None:
            others.append(path.name)
            continue
        files.setdefault(split, []).append(path)
        forms.setdefault(split, set()).add(
            (path.name.lower().replace(match["shard"] or "\0", ""), bool(match["shard"]))
        )
    for split, paths in files.items():
        if len(forms[split]) > 1:
            raise DataError(f"{folder} has {_listed(path.name for path in paths)} for the split {split!r}: keep one.")
    return files, others


def _listed(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _concatenate(tables: list[Table]) -> Table:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [value for table in tables for value in table.get(name, [None] * length(table))] for name in names}


def _text(path: Path, zipped: bool) -> str:
    data = path.read_bytes()
    if zipped:
        try:
            data = gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file ({error}): compress it again or drop the .gz.") from error
    elif data.startswith(_GZIP):
        raise DataError(f"{path} is compressed with gzip: add .gz to its name.")
    if data.startswith(_PARQUET) or b"\0" in data:
        raise DataError(f"{path} is a binary file, not text as its name says: give it the name of what it is.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line} is not UTF-8: save the file in that encoding.") from error


def _json(text: str, path: Path) -> Table:
    """JSON lines, or one array of objects where the file ends in .json."""
    if text.lstrip().startswith("[") and ".json" in path.suffixes:
        rows = _parse(text, path, "")
        places = [f", item {number}" for number in range(1, len(rows) + 1)]
    else:
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        places = [f", line {number}" for number, _ in numbered]
        rows = [_parse(line, path, place) for (_, line), place in zip(numbered, places, strict=True)]
    for row, place in zip(rows, places, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{path}{place} is not a JSON object: each row is an object with a text and a label.")
    return from_rows(rows)


def _parse(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is JSON, and no number here
        raise DataError(f"{path}{place} is not JSON: {error}.") from error


def _delimited(text: str, path: Path, delimiter: str) -> Table:
    """CSV with a header; a row with more or fewer fields than the header is an error."""
    limit = csv.field_size_limit(max(len(text), 131072))
    try:
        quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # a .tsv has no quotes
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header) or not all(name.strip() for name in header):
            raise DataError(f"{path}, line 1 must name the columns, each once; it has {', '.join(map(repr, header))}.")
        rows = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{path}, line {reader.line_num} has {len(row)} fields, the header has {len(header)}.")
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    return {name: [row[column] for row in rows] for column, name in enumerate(header)}


def _parquet(path: Path) -> Table:
    parquet, arrow = require("pyarrow.parquet", "train"), require("pyarrow", "train")
    with path.open("rb") as stream:
        if stream.read(4) != _PARQUET:
            raise DataError(f"{path} is not a parquet file: give it the name of what it is, or write it again.")
    try:
        columns: Table = parquet.read_table(path).to_pydict()
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path} is a damaged parquet file ({error}): write it again.") from error
    return columns
