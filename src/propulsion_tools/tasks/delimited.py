"""Columns from CSV or TSV with a header, strictly: no field is lost, added or moved."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.raw_tables import Table, is_index

_DELIMITERS = (",", ";", "\t", "|")
_EXCEL = re.compile(r'"?sep=(.)"?(?:\r\n|\n|\r)')
Quoting = Literal[0, 3]


def delimited(text: str, name: str, tabs: bool) -> tuple[Table, str]:
    """The columns of a file, as texts, and what separates its fields.

    The first of comma, semicolon, tab and bar that separates the header is taken, or the one that a first line
    ``sep=;`` names. Fields between tabs have no quotes, unless the file is only whole with them.

    Args:
        text: The file.
        name: For messages.
        tabs: Whether its name says that fields stand between tabs.

    Raises:
        DataError: The header does not name every column once, a row has more or fewer fields than it, or a quote is
            not closed; names the line.
    """
    excel = _EXCEL.match(text)
    first, text = (2, text[excel.end() :]) if excel else (1, text)
    with _fields_of_any_length(text):
        delimiter = excel[1] if excel else "\t" if tabs else _delimiter(text)
        if not tabs:
            return _table(text, name, delimiter, csv.QUOTE_MINIMAL, first), delimiter
        try:
            return _table(text, name, delimiter, csv.QUOTE_NONE, first), delimiter
        except DataError:
            try:
                return _table(text, name, delimiter, csv.QUOTE_MINIMAL, first), delimiter
            except DataError:
                pass
            raise


@contextmanager
def _fields_of_any_length(text: str) -> Iterator[None]:
    limit = csv.field_size_limit(max(len(text), 131072))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _delimiter(text: str) -> str:
    """What separates the fields of the header; a comma where nothing does."""
    for delimiter in _DELIMITERS:
        try:
            header = next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)), [])
        except csv.Error:
            continue
        if len(header) > 1:
            return delimiter
    return ","


def _table(text: str, name: str, delimiter: str, quoting: Quoting, first: int) -> Table:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    try:
        for row in filter(None, lines):
            if not header:
                header = [column.strip() for column in row]
            elif len(row) != len(header):
                raise DataError(
                    f"{name}, line {lines.line_num + first - 1} has {len(row)} fields, the header has {len(header)}: "
                    f"a field that holds a {delimiter!r} or a line break needs quotes."
                )
            else:
                rows.append(row)
    except csv.Error as error:
        raise DataError(f"{name}, line {lines.line_num + first - 1} is not CSV: {error}.") from error
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
