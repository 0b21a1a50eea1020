"""A folder with one file per split, read into columns.

Every file is read strictly: one that is not what its name says is an error that names the file, the place and the way
out, and then nothing is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.delimited import delimited
from propulsion_tools.tasks.file_text import ARCHIVE, WORKBOOK, decoded
from propulsion_tools.tasks.json_rows import Row, json_rows
from propulsion_tools.tasks.parquet_table import parquet_table
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows, length, without_index

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_FILE = re.compile(r"(?P<stem>.+?)(?P<shard>-\d+-of-\d+)?(?P<format>\.(jsonl|json|csv|tsv|parquet))(?P<gz>\.gz)?")
_SPLIT = re.compile(r"(train|training|validation|valid|val|dev|eval|test)([_-].+)?")
_ALIASES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
_WAYS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), WORKBOOK),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".bz2", ".xz", ".zst"), ARCHIVE),
    **dict.fromkeys((".arrow", ".feather", ".pkl", ".pickle"), "write it as .parquet"),
    ".ndjson": "name it .jsonl",
    ".txt": "write each line as a JSON object into a .jsonl file",
}
"""What to do about files that people have and that are not read."""


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
        ways = "".join(map(_way, sorted(folder.iterdir())))
        raise DataError(
            f"{data_dir} has no training file: name one train{FORMATS[0]}, train.csv or the like. {there}{ways}"
        )
    order = sorted(files, key=lambda split: split != "train")
    tables = {split: _concatenate([read_table(path) for path in files[split]]) for split in order}
    notes = [f"Left out of {data_dir}, not named after a split: {_listed(others)}."] if others else []
    unread = [path for path in sorted(folder.iterdir()) if form_of(path.name) is None and split_name(path.stem)]
    if said := [way for path in unread if (way := _way(path))]:
        notes.append(f"Not read in {data_dir}:{''.join(said)}")
    kept = {split: without_index(table) for split, table in tables.items()}
    if counted := [split for split in tables if len(kept[split]) < len(tables[split])]:
        notes.append(f"The index that pandas writes beside a table is left out of {', '.join(counted)}.")
    return RawSplits(kept, tuple(notes))


def split_name(stem: str) -> str | None:
    """The split that a name stands for ("dev_matched" is "validation_matched"), or None if it stands for none."""
    match = _SPLIT.fullmatch(stem.lower())
    if match is None:
        return None
    return _ALIASES.get(match[1], match[1]) + (match[2] or "").replace("-", "_")


@dataclass(frozen=True)
class Form:
    """How rows are written down.

    Args:
        kind: One of `FORMATS`.
        zipped: Whether they are compressed with gzip.
        delimiter: What separates fields, in .csv.
    """

    kind: str
    zipped: bool = False
    delimiter: str = ","


LINES = Form(".jsonl")
"""How rows are written where no file says how."""


def form_of(name: str) -> Form | None:
    """The form that the name of a file says; None: none that is known."""
    match = _FILE.fullmatch(Path(name).name.lower())
    if match is None or (match["gz"] and match["format"] == ".parquet"):
        return None
    return Form(match["format"], bool(match["gz"]))


def read_table(path: Path) -> Table:
    """Read the columns of one file by the form that its name says.

    Raises:
        DataError: The file is empty, or is not what its name says.
    """
    contents, _ = read_contents(path)
    return from_rows(contents) if isinstance(contents, list) else contents


def read_contents(path: Path) -> tuple[Table | list[Row], Form]:
    """Columns where a file has columns, rows where it has rows, and how they are written down.

    Raises:
        DataError: As `read_table`.
    """
    form = form_of(path.name)
    if form is None:
        raise DataError(
            f"Cannot read {path}: it should end in {', '.join(FORMATS)}, or one of the text forms and .gz.{_way(path)}"
        )
    contents: Table | list[Row]
    if form.kind == ".parquet":
        contents = parquet_table(path)
    else:
        text = decoded(path.read_bytes(), str(path), form.zipped)
        if form.kind in (".csv", ".tsv"):
            contents, delimiter = delimited(text, str(path), tabs=form.kind == ".tsv")
            form = replace(form, delimiter=delimiter)
        else:
            contents = json_rows(text, str(path))
    if not (contents if isinstance(contents, list) else length(contents)):
        raise DataError(f"{path} is empty: it has no rows.")
    return contents, form


def _way(path: Path) -> str:
    """What to do about a file of a known kind that is not read, as the end of a message."""
    way = _WAYS.get(path.suffix.lower())
    return f" {path.name}: {way}." if way else ""


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
