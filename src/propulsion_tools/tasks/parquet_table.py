"""Columns from a parquet file."""

from __future__ import annotations

from pathlib import Path

from propulsion_tools.errors import DataError, require
from propulsion_tools.tasks.file_text import PARQUET, refuse_other_kinds
from propulsion_tools.tasks.raw_tables import Table


def parquet_table(path: Path) -> Table:
    """The columns as Python values; categories are what they stand for.

    Raises:
        DataError: It is no parquet file, damaged, or has two columns of one name.
        MissingExtraError: pyarrow is not installed.
    """
    parquet, arrow = require("pyarrow.parquet", "train"), require("pyarrow", "train")
    with path.open("rb") as stream:
        start = stream.read(64)
    if not start.startswith(PARQUET):
        refuse_other_kinds(start, str(path), "parquet")
        raise DataError(f"{path} is not a parquet file: give it the name of what it is, or write it again.")
    try:
        file = parquet.ParquetFile(path)
        names: list[str] = file.schema_arrow.names
        columns: Table = file.read().to_pydict() if len(set(names)) == len(names) else {}
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path} is a damaged parquet file ({error}): write it again.") from error
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise DataError(f"{path} has the column {twice[0]!r} twice: name each column once.")
    return columns
