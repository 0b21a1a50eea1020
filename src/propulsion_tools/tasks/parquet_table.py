"""Columns from a parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from propulsion_tools.errors import DataError, require
from propulsion_tools.records.repeats import first_repeated
from propulsion_tools.records.sizes import allowed_bytes
from propulsion_tools.tasks.file_text import PARQUET, refuse_other_kinds
from propulsion_tools.tasks.raw_tables import Table

_BYTES_OF_A_CELL = 8


def parquet_table(path: Path) -> Table:
    """The columns as Python values; categories are what they stand for.

    Raises:
        DataError: It is no parquet file, damaged, too large, or has two columns of one name.
        MissingExtraError: pyarrow is not installed.
    """
    parquet, arrow = require("pyarrow.parquet", "train"), require("pyarrow", "train")
    with path.open("rb") as stream:
        start = stream.read(64)
    if not start.startswith(PARQUET):
        refuse_other_kinds(start, str(path), "parquet")
        raise DataError(f"{path} is not a parquet file: give it the name of what it is, or write it again.")
    try:
        file = parquet.ParquetFile(path, read_dictionary=_texts(parquet.ParquetFile(path)))
        twice = first_repeated(file.schema_arrow.names)
        columns: Table = {} if twice else _read(file, path)
    except DataError:
        raise
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError(f"{path} is a damaged parquet file ({error}): write it again.") from error
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice: name each column once.")
    return columns


def _texts(file: Any) -> list[str]:
    """The paths of columns of texts; read as numbers of texts, one that is repeated is in memory once."""
    columns = [file.schema.column(number) for number in range(len(file.schema))]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _read(file: Any, path: Path) -> Table:
    """The columns, if they take no more memory than the file's size lets expect."""
    most, facts = allowed_bytes(path.stat().st_size), file.metadata
    declared = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
    cells = _BYTES_OF_A_CELL * facts.num_rows * len(file.schema_arrow.names)
    if max(declared, cells) <= most:
        table = file.read()
        if sum(_bytes_of_texts(chunk) for column in table.columns for chunk in column.chunks) <= most:
            columns: Table = table.to_pydict()
            return columns
    raise DataError(
        f"{path} holds more than {most // 2**20:,} MiB, far more than its size lets expect: write it as .jsonl or .csv."
    )


def _bytes_of_texts(array: Any) -> int:
    """What the texts of an array take when each has its own."""
    compute, types = require("pyarrow.compute", "train"), require("pyarrow.types", "train")
    if types.is_dictionary(array.type):
        lengths = compute.binary_length(array.dictionary) if _is_text(array.dictionary.type, types) else None
        return 0 if lengths is None else compute.sum(lengths.take(array.indices)).as_py() or 0
    if types.is_nested(array.type):
        return sum(map(_bytes_of_texts, array.flatten() if types.is_struct(array.type) else [array.values]))
    return 0


def _is_text(kind: Any, types: Any) -> bool:
    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_binary))
