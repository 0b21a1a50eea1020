"""Texts that no task is made of: the first ones of a file or of a data set on the hub, in their order."""

from __future__ import annotations

from pathlib import Path

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.data_files import form_of, read_table
from propulsion_tools.tasks.hub import first_rows
from propulsion_tools.tasks.raw_tables import Table, from_rows

COLUMN = "text"


def first_texts(source: str, most: int) -> list[str]:
    """The first texts of a source, without those that are empty.

    Args:
        source: A file with a column ``text`` (.jsonl, .json, .csv, .tsv, also with .gz, or .parquet), or the id of a
            data set on the hub with that column in its training split.
        most: How many are wanted; fewer where there are no more.

    Raises:
        DataError: There is no such file or data set, it cannot be read, or it has no texts; says what to do.
        MissingExtraError: datasets is not installed.
    """
    table = _table(source, most)
    if COLUMN not in table:
        there = ", ".join(map(repr, table)) or "none"
        raise DataError(f"{source}, which forgetting_text names, has no column {COLUMN!r}; it has {there}: rename one.")
    texts = [value for value in table[COLUMN][:most] if isinstance(value, str) and value.strip()]
    if not texts:
        raise DataError(f"{source}, which forgetting_text names, has no text in its first {most} rows: name another.")
    return texts


def _table(source: str, most: int) -> Table:
    if Path(source).is_file():
        return read_table(Path(source))
    if form_of(source) is not None or Path(source).exists():
        raise DataError(f"forgetting_text names {source}, which is no file here: name one, or a data set on the hub.")
    return from_rows(first_rows(source, most))
