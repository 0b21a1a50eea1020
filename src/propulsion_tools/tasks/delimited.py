"""Columns from CSV or TSV with a header, strictly: no field is lost, added or moved."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.json_rows import text_lines
from propulsion_tools.tasks.raw_tables import Table, is_index

_DELIMITERS = (",", ";", "\t", "|")
_EXCEL = re.compile(r'"?sep=(.)"?(?:\r\n|\n|\r)')
Lines = Iterable[tuple[int, list[str]]]
"""The fields of each row, with the number of its last line."""


def delimited(text: str, name: str, tabs: bool) -> tuple[Table, str]:
    """The columns of a file, as texts, and what separates its fields.

    The first of comma, semicolon, tab and bar that separates the header is taken, or the one that a first line
    ``sep=;`` names. Where the name says that fields stand between tabs, quotes are letters like any other, unless the
    file is whole only with quoted fields.

    Args:
        text: The file.
        name: For messages.
        tabs: Whether its name says that fields stand between tabs.

    Raises:
        DataError: The header does not name every column once, a row has more or fewer fields than it, or a quote is
            not closed; names the line.
    """
    if not tabs:
        excel = _EXCEL.match(text)
        text, before = (text[excel.end() :], 1) if excel else (text, 0)
        delimiter = excel[1] if excel else _delimiter(text)
        return _table(_quoted(text, name, delimiter, before), name, delimiter), delimiter
    try:
        lines = ((number, line.split("\t")) for number, line in enumerate(text_lines(text), 1) if line)
        return _table(lines, name, "\t"), "\t"
    except DataError:
        with contextlib.suppress(DataError):
            return _table(_quoted(text, name, "\t", 0), name, "\t"), "\t"
        raise


def _delimiter(text: str) -> str:
    """What separates the fields of the header; a comma where nothing does."""
    return next((delimiter for delimiter in _DELIMITERS if len(_header(text, delimiter)) > 1), ",")


def _header(text: str, delimiter: str) -> list[str]:
    """The first row that is not blank; empty where it cannot be read with this delimiter."""
    with contextlib.suppress(csv.Error, StopIteration):
        return next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)))
    return []


def _quoted(text: str, name: str, delimiter: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file whose fields may have quotes; `before` lines stood in front of it.

    A blank behind each delimiter is not of the field where the header has it too.
    """
    spaced = all(column.startswith(" ") for column in _header(text, delimiter)[1:])
    stream = io.StringIO(text, newline="")
    lines = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=spaced and delimiter in ",;")
    limit = csv.field_size_limit(max(len(text), 131072))
    try:
        for row in filter(None, lines):
            yield lines.line_num + before, row
    except csv.Error as error:
        raise DataError(f"{name}, line {lines.line_num + before} is not CSV: {error}.") from error
    finally:
        csv.field_size_limit(limit)


def _table(lines: Lines, name: str, delimiter: str) -> Table:
    rows: list[list[str]] = []
    first = 1
    for number, row in lines:
        if not rows:
            row, first = [column.strip() for column in row], number
        elif len(row) != len(rows[0]):
            marks = "tab" if delimiter == "\t" else repr(delimiter)
            raise DataError(
                f"{name}, line {number} has {len(row)} fields, the header has {len(rows[0])}: a field that holds a "
                f"{marks} or a line break needs quotes, in every line that has such a field."
            )
        rows.append(row)
    header, *rows = rows or [[]]
    columns = list(map(list, zip(*rows, strict=True))) if rows else [[] for _ in header]
    named = _named(header, columns)
    if len(dict(named)) < len(named) or not all(column or is_index(column, values) for column, values in named):
        names = ", ".join(repr(column) for column, _ in named)
        raise DataError(f"{name}, line {first} must name the columns, each once; it has {names}.")
    return dict(named)


def _named(header: list[str], columns: list[list[str]]) -> list[tuple[str, list[str]]]:
    """The columns by their names, without those at the end that have neither a name nor anything in them."""
    named = list(zip(header, columns, strict=True))
    while named and not named[-1][0] and not any(named[-1][1]):
        named.pop()
    return named
