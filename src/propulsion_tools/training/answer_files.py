"""Rows with their answers, written down in the form that was asked for, or else that of the input."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from propulsion_tools.errors import DataError, OptionError, require
from propulsion_tools.records import atomic, is_stream
from propulsion_tools.tasks.data_files import FORMATS, LINES, Form, form_of
from propulsion_tools.tasks.given_rows import STANDARD_STREAM, Given

PREDICTION = "prediction"
UNWRITABLE = (".xlsx", ".xls", ".ods", ".zip", ".gz", ".bz2", ".xz", ".txt", ".arrow", ".feather", ".pkl")
_SEPARATORS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}  # where str.splitlines splits
Row = dict[str, Any]


def output_name(asked: str | None, read: Form) -> str:
    """Where the rows go: what was asked for, or else ``predictions`` with the ending of the input."""
    return asked if asked is not None else f"predictions{read.kind}"


def output_form(name: str, source: str, given: Given) -> Form:
    """The form that the output's name says, or else that of the input; a stream has text alone, one row a line.

    Raises:
        OptionError: The output is a folder, the input itself, or of a form that is not written.
        DataError: The input has a column `PREDICTION`, which would be lost.
    """
    path = Path(name)
    if taken := [column for column in column_names(given.rows) if column.split(".")[0] == PREDICTION]:
        raise DataError(f"{source} has a column {taken[0]!r} already, which would be overwritten: rename it.")
    if name == STANDARD_STREAM or is_stream(path):
        line_by_line = given.form.kind in (".csv", ".tsv")
        return replace(given.form, zipped=False) if line_by_line else LINES
    if path.is_dir():
        raise OptionError(
            f"{path} is a folder: name a file in it to write to, such as {output_name(None, given.form)}."
        )
    if source != STANDARD_STREAM and path.resolve() == Path(source).resolve():
        raise OptionError(f"{path} is the input too, which would be lost: name another --output.")
    said = form_of(name)
    if said is None and path.suffix.lower() in UNWRITABLE:
        raise OptionError(f"Cannot write {path}: rows are written as {', '.join(FORMATS)}, or a text form and .gz.")
    if said is None:
        return replace(given.form, zipped=False)
    return replace(said, delimiter=given.form.delimiter) if said.kind == given.form.kind else said


def write_answers(path: Path, form: Form, rows: Sequence[Row], answers: Sequence[Row]) -> None:
    """Write the rows with their answers, whole or not at all.

    Raises:
        DataError: Parquet has no type for a column of these rows.
    """
    answered = [{**row, PREDICTION: answer} for row, answer in zip(rows, answers, strict=True)]
    if form.kind == ".parquet":
        content = _parquet(answered)
        with atomic(path, binary=True) as stream:
            stream.write(content)
        return
    with atomic(path, binary=form.zipped) as stream, _text(stream, form.zipped) as text:
        if form.kind == ".json":
            text.write("[\n" + ",\n".join(map(to_line, answered)) + "\n]\n")
        else:
            writer = RowWriter(text, form, column_names(rows))
            writer.write(rows, answers)


def column_names(rows: Iterable[Row]) -> list[str]:
    """The names of all columns, in the order in which they turn up."""
    return list(dict.fromkeys(name for row in rows for name in row))


def to_line(value: Any) -> str:
    """JSON that every reader sees as one line; what JSON has no type for, such as a date, as its text."""
    return json.dumps(value, ensure_ascii=False, default=str).translate(_SEPARATORS)


class RowWriter:
    """Writes rows with their answers as JSON lines, CSV or TSV, as they come.

    In CSV and TSV an answer has a column for each of its parts, named as pandas' ``json_normalize`` names them:
    ``prediction.label``, ``prediction.scores.positive``. In TSV, which has no quotes, a tab is written ``\\t`` and the
    end of a line ``\\n``.

    Args:
        stream: What to write to.
        form: How.
        columns: The names of the input's columns, all of them.
    """

    def __init__(self, stream: IO[str], form: Form, columns: Sequence[str]) -> None:
        self._stream, self._form, self._columns = stream, form, list(columns)
        self._writer: csv.DictWriter[str] | None = None

    def write(self, rows: Iterable[Row], answers: Iterable[Row]) -> None:
        """Write rows and their answers, as many as there are of each."""
        for row, answer in zip(rows, answers, strict=True):
            if self._form.kind == ".jsonl":
                self._stream.write(to_line({**row, PREDICTION: answer}) + "\n")
            else:
                self._write_fields({**row, **_flat(answer, PREDICTION)})

    def _write_fields(self, fields: Row) -> None:
        tabs = self._form.kind == ".tsv"
        if self._writer is None:
            names = list(dict.fromkeys([*self._columns, *fields]))
            style: dict[str, Any] = {"delimiter": self._form.delimiter, "lineterminator": "\n"}
            if tabs:
                style |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            self._writer = csv.DictWriter(self._stream, names, **style)
            self._writer.writerow({name: _field(name, tabs) for name in names})
        self._writer.writerow({name: _field(value, tabs) for name, value in fields.items()})


def _flat(value: Any, name: str) -> Row:
    """The parts of an answer under dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {inner: part for key, item in value.items() for inner, part in _flat(item, f"{name}.{key}").items()}


def _field(value: Any, tabs: bool) -> str:
    text = "" if value is None else to_line(value) if isinstance(value, list | dict) else str(value)
    return text.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n") if tabs else text


@contextmanager
def _text(stream: IO[Any], zipped: bool) -> Iterator[IO[str]]:
    """A stream of text in a file of text, or in one of bytes that are compressed."""
    if not zipped:
        yield stream
        return
    with gzip.open(stream, "wt", encoding="utf-8", newline="") as text:
        yield text


def _parquet(rows: Sequence[Row]) -> bytes:
    pyarrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
    buffer = io.BytesIO()
    try:
        columns = {name: [row.get(name) for row in rows] for name in column_names(rows)}
        parquet.write_table(pyarrow.table(columns), buffer)
    except (ValueError, TypeError, NotImplementedError, OverflowError) as error:  # pyarrow's errors are of these kinds
        raise DataError(f"These rows cannot be a parquet file ({error}): name an --output in .jsonl.") from error
    return buffer.getvalue()
