"""Rows from JSON: one object a line, one array of them, or an object that holds one, such as SQuAD's own file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.records.repeats import first_repeated

Row = dict[str, Any]
HOLDERS = ("data", "rows", "examples", "instances", "records")
"""Keys of an object under which writers put the list of their rows."""
MOST_LEVELS = 100
"""Of lists and objects in each other; what is read at the edge of Python's own limit could not be written again."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def json_rows(text: str, name: str) -> list[Row]:
    """The rows of a file.

    Args:
        text: JSON lines; or a whole document: an array of objects, an object with such an array under one of `HOLDERS`
            (SQuAD's articles become one row for each question), or what pandas writes for a table ("split",
            "columns", "index").
        name: For messages.

    Raises:
        DataError: It is none of these, a key stands twice in an object, an integer is too long or a text holds half of
            a character; names the line or the item.
    """
    lines = [(number, line) for number, line in enumerate(text_lines(text), 1) if line.strip()]
    if not lines:
        return []
    found = _document(text, lines, name)
    if found is None:
        rows = [parsed_object(line, f"{name}, line {number}") for number, line in lines]
    else:
        rows, place = found
        halves = _SURROGATE.search(text) is not None
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise DataError(f"{name}, {place} {number} is not a JSON object: a row is an object with its columns.")
            if halves:
                _refuse_half_characters(row, f"{name}, {place} {number}")
    return _questions(rows, name) if rows and all(map(_has_questions, rows)) else rows


def text_lines(text: str) -> list[str]:
    """The lines, without the blank ones at the end; whatever else `str.splitlines` splits at may stand in a line."""
    end = "\n" if "\n" in text else "\r"
    lines = [line.removesuffix("\r") for line in text.split(end)]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def parsed_object(text: str, place: str) -> Row:
    """One JSON object.

    Raises:
        DataError: It is none, or cannot be used; begins with `place`.
    """
    value = _parse(text, place)
    if not isinstance(value, dict):
        raise DataError(f"{place} is not a JSON object: a row is an object with its columns.")
    if _SURROGATE.search(text):
        _refuse_half_characters(value, place)
    return value


def _parse(text: str, place: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
        if text.count("[") + text.count("{") > MOST_LEVELS and _is_deeper(value, MOST_LEVELS):
            raise RecursionError
        return value
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not JSON: {error}.") from error
    except RecursionError as error:
        raise DataError(f"{place} is nested too deeply to be read as JSON.") from error
    except DataError as error:
        raise DataError(f"{place} {error}") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise DataError(f"{place} holds an integer of too many digits: write it as a text.") from error


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand in each other more often than this."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _once_each(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        (twice,) = first_repeated(name for name, _ in pairs)
        raise DataError(f"has the key {twice!r} twice: name each column once.")
    return row


def _refuse_half_characters(row: Row, place: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(f"{place} holds {code}, half of a character (a lone surrogate): remove or mend it.") from error


def _document(text: str, lines: Sequence[tuple[int, str]], name: str) -> tuple[list[Any], str] | None:
    """The rows of a text that is one JSON value, and what to call one of them; None: every line is a value."""
    first = text.lstrip()[:1]
    if first == "[":
        rows: list[Any] = _parse(text, name)
        return rows, "item"
    if first != "{" or (len(lines) > 1 and _is_json(lines[0][1])):
        return None
    return _held(_parse(text, name if len(lines) > 1 else f"{name}, line {lines[0][0]}"))


def _is_json(text: str) -> bool:
    """Whether a line stands for itself; one that is broken in its middle does, and is reported as that line."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos < len(text.rstrip())
    except (ValueError, RecursionError):
        return True
    return True


def _held(value: Row) -> tuple[list[Any], str]:
    """The rows that an object holds; the object itself where it holds none."""
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        fits = all(len(row) == len(columns) for row in data)
        return ([dict(zip(columns, row, strict=True)) for row in data] if fits else data), "item"
    for key in HOLDERS:
        rows = value.get(key)
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            viewed = [row.get("row") for row in rows if "row_idx" in row]  # as the hub's viewer gives them
            return viewed if viewed and len(viewed) == len(rows) else rows, f"{key!r}, item"
    cells = list(value.values())
    if len(cells) > 1 and all(isinstance(cell, dict) and cell.keys() == cells[0].keys() for cell in cells):
        if all(map(str.isdigit, value)) and not all(map(str.isdigit, cells[0])):
            return cells, "row"
        return [{name: value[name][row] for name in value} for row in cells[0]], "row"
    return [value], "line"


def _has_questions(row: Row) -> bool:
    return isinstance(row.get("paragraphs"), list) or ("context" in row and isinstance(row.get("qas"), list))


def _questions(articles: Sequence[Row], name: str) -> list[Row]:
    """One row for each question of SQuAD's own files: articles of paragraphs of questions, or the paragraphs alone."""
    rows = []
    for number, article in enumerate(articles, 1):
        try:
            rows += [
                {
                    "id": asked.get("id"),
                    "title": article.get("title"),
                    "context": paragraph["context"],
                    "question": asked["question"],
                    "answers": asked.get("answers", []),
                }
                for paragraph in article.get("paragraphs", [article])
                for asked in paragraph["qas"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{name}, article {number} is not as in SQuAD: paragraphs have a context and qas, which have a "
                "question and answers."
            ) from error
    return rows
