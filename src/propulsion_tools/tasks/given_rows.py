"""The rows that a user gives to be answered for: of a file, read as training files are, or of a stream."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import is_stream
from propulsion_tools.tasks.data_files import LINES, Form, read_contents
from propulsion_tools.tasks.file_text import decoded
from propulsion_tools.tasks.json_rows import Row, json_rows, parsed_object, text_lines
from propulsion_tools.tasks.row_conversion import rows_of

STANDARD_STREAM = "-"
_STANDARD_INPUT = "/dev/stdin"
_OBJECT = re.compile(r"""\s*\{\s*["}]""")


@dataclass(frozen=True)
class Given:
    """What was given.

    Args:
        rows: In the order of their source; a line of text stands under ``text``.
        form: How they were written down.
        lines: Whether they are lines of text, and have no columns.
        digest: Of the bytes that they were read from.
    """

    rows: list[Row]
    form: Form
    lines: bool
    digest: str


def read_given(name: str) -> Given:
    """All rows of a file, or of a stream: JSON, or lines of text.

    Raises:
        OptionError: There is no such file.
        DataError: There are no rows, or one cannot be read; names the line.
    """
    if name == STANDARD_STREAM or is_stream(Path(name)):
        data = _stream(name)
        rows, lines = _stream_rows(decoded(data, "standard input", zipped=False))
        return Given(rows, LINES, lines, hashlib.sha256(data).hexdigest())
    path = Path(name)
    if not path.is_file():
        what = "is a folder: name a file in it" if path.is_dir() else "does not exist: there is no file"
        raise OptionError(f"{name} {what} to predict from.")
    contents, form = read_contents(path)
    rows = contents if isinstance(contents, list) else list(rows_of(contents))
    return Given(rows, form, False, hashlib.sha256(path.read_bytes()).hexdigest())


def _stream(name: str) -> bytes:
    if name not in (STANDARD_STREAM, _STANDARD_INPUT):
        return Path(name).read_bytes()
    if hasattr(sys.stdin, "buffer"):
        return sys.stdin.buffer.read()
    return sys.stdin.read().encode("utf-8", "surrogatepass")  # a notebook's has text alone


def _stream_rows(text: str) -> tuple[list[Row], bool]:
    """The rows of a stream, and whether all are lines of text: a line is one unless it begins like a JSON object."""
    if _is_document(text):
        return json_rows(text, "standard input"), False
    lines = text_lines(text)
    plain = not any(map(_OBJECT.match, lines))
    rows = []
    for number, line in enumerate(lines, 1):
        place = f"standard input, line {number}"
        if _OBJECT.match(line):
            rows.append(parsed_object(line, place))
        elif line.strip():
            rows.append({"text": line})
        elif plain:
            raise DataError(f"{place} is empty: every line gets an answer, so remove it or write something there.")
    if not rows:
        raise DataError("standard input is empty: it has no rows.")
    return rows, plain


def _is_document(text: str) -> bool:
    """Whether a stream is one JSON value of rows."""
    if text.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            return isinstance(value, dict) or (bool(value) and all(isinstance(item, dict) for item in value))
    return False
