"""Rows of a family from rows of whatever form: one conversion for each row, and what is said where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from propulsion_tools.errors import DataError, near_misses
from propulsion_tools.tasks.base import DataSource, TaskData
from propulsion_tools.tasks.columns import refuse_twice
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows, length, short
from propulsion_tools.tasks.task_data import sampled, with_validation

Row = Mapping[str, Any]
Convert = Callable[[Row], dict[str, Any]]
"""From a raw row to a row of the family; raises DataError, without the place, where it cannot."""


KEYS = (
    *("instruction", "prompt", "text", "document", "article", "dialogue", "passage", "context", "ctx"),
    *("question", "question_stem", "Question", "Body", "original_text", "goal", "sentence"),
)
"""Raw columns that tell rows apart, so that tasks that read the same rows in two ways set the same ones aside."""


COLUMN_OPTIONS = ("text_column", "text_pair_column", "label_column")


def with_names(raw: RawSplits, given: Mapping[str, str], own: Mapping[str, str]) -> RawSplits:
    """The rows with the columns that the user named under the names that a family reads.

    Args:
        raw: What a folder, the hub or a miner gave.
        given: The columns that the user named, by option.
        own: What the family calls them, by option, and under other keys what it must not read beside them.

    Raises:
        DataError: A column is not there, or named twice.
    """
    if not given:
        return raw
    refuse_twice(given.values())
    for option, name in given.items():
        for split, table in raw.tables.items():
            if name not in table and not (option == "label_column" and split.startswith("test")):
                there = ", ".join(map(repr, table))
                hint = near_misses(name, table)
                raise DataError(f"The {split} split has no column {name!r} (--{option}).{hint} It has {there}.")
    renamed = {name: own[option] for option, name in given.items()}
    unread = {name for key, name in own.items() if key in given or key not in COLUMN_OPTIONS}
    tables = {
        split: {
            renamed.get(name, name): values for name, values in table.items() if name in renamed or name not in unread
        }
        for split, table in raw.tables.items()
    }
    return replace(raw, tables=tables)


def convert_splits(raw: RawSplits, source: DataSource, convert: Convert) -> TaskData:
    """Convert, check and sample the rows of every split.

    Args:
        raw: What a folder, the hub or a miner gave.
        source: How many rows to keep.
        convert: Makes a row of the family.

    Raises:
        DataError: A row that the user can mend cannot be converted, or a whole split cannot; says which and why.
    """
    notes, tables = list(raw.notes), {}
    first = next(iter(raw.tables.values()))
    keys = [name for name in KEYS if name in first] or list(first)
    for split, table in with_validation(raw.tables, keys, notes).items():
        rows, errors = _converted(table, convert)
        if split.startswith("test") and not rows:
            notes.append(f"The split {split} is left out: its answers are withheld.")
            continue
        if errors and (raw.user_editable or not rows):
            number, reason = next(iter(errors.items()))
            many = f"{len(errors)} of {length(table)} rows of the {split} split cannot be used"
            raise DataError(f"{many}, the first is row {number}: {reason}")
        if errors:
            notes.append(f"{len(errors)} of {length(table)} rows of the {split} split cannot be used and are left out.")
        tables[split] = from_rows(rows)
    if not tables:
        raise DataError("No split has answers to train on or to score with.")
    return TaskData(sampled(tables, source, notes), None, tuple(notes))


def _converted(table: Table, convert: Convert) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The rows, and why a row of this number (from 1) is none."""
    rows, errors = [], {}
    for number, row in enumerate(rows_of(table), 1):
        try:
            rows.append(convert(row))
        except DataError as error:
            errors[number] = str(error)
    return rows, errors


def rows_of(table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, one dictionary each."""
    for values in zip(*table.values(), strict=True):
        yield dict(zip(table, values, strict=True))


def text_in(row: Row, *names: str) -> str:
    """The text in the first of these columns that the row has.

    Raises:
        DataError: It has none of them, or what is there is no text.
    """
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        wanted, there = " or ".join(map(repr, names)), [name for name, value in row.items() if value is not None]
        raise DataError(
            f"it has no column {wanted}.{near_misses(names[0], there)} It has {', '.join(map(repr, there))}."
        )
    if not isinstance(row[name], str) or not row[name].strip():
        raise DataError(f"it has {short(row[name])} in column {name!r}: a text is wanted.")
    return row[name]
