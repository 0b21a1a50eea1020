"""From raw rows to a task's data: columns, checks, labels, the validation split, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from propulsion_tools.errors import DataError, require
from propulsion_tools.tasks.base import DataSource, TaskData
from propulsion_tools.tasks.columns import Columns, find_columns, unread_texts
from propulsion_tools.tasks.data_files import read_folder
from propulsion_tools.tasks.hub import read_hub
from propulsion_tools.tasks.labels import LabelMap, class_labels, is_hidden, is_missing
from propulsion_tools.tasks.raw_tables import RawSplits, Table, length, sample, short, split_off_validation, take

VALIDATION_FRACTION = 0.1


def read(
    source: DataSource,
    task: str,
    hub_id: str | None = None,
    hub_config: str | None = None,
    default: Callable[[], RawSplits] | None = None,
) -> RawSplits:
    """The rows of a folder, of a hub data set, or of the task's own.

    Args:
        source: What the user named.
        task: The task's name, for messages.
        hub_id: The data set on the hub that is read where the user names no source.
        hub_config: Its configuration.
        default: Makes the rows where the user names no source, rather than the hub.

    Raises:
        DataError: There is nothing to read, or it cannot be read; says what to do.
        MissingExtraError: datasets is not installed.
    """
    require("datasets", "train")
    if source.data_dir is not None:
        return read_folder(source.data_dir, source.training)
    if source.dataset_name is None and default is not None:
        return default()
    name = source.dataset_name or hub_id
    if name is None:
        raise DataError(f"The task {task} has no data of its own: name some with --data_dir or --dataset_name.")
    config = source.dataset_config_name or (hub_config if name == hub_id else None)
    return read_hub(name, config, (source.max_train_samples, source.max_eval_samples), source.seed)


def to_task_data(
    raw: RawSplits,
    source: DataSource,
    given: Columns,
    known: Columns,
    label_names: tuple[str, ...] | None,
    regression: bool = False,
    no_label: Sequence[str] = (),
) -> TaskData:
    """Check the rows and bring them to the columns ``text``, ``text_pair`` and ``label``.

    Args:
        raw: What a folder, the hub or a miner gave.
        source: How many rows to keep.
        given: Columns that the user named.
        known: Columns that this data set is known to have.
        label_names: Names of the label ids, where they are known.
        regression: Whether labels are numbers to be predicted.
        no_label: What stands where annotators did not agree on a label; such rows are left out.

    Raises:
        DataError: The rows cannot be trained on; says which and what to do.
    """
    first = "train" if "train" in raw.tables else next(iter(raw.tables))
    columns, guess = find_columns(raw.tables[first], given, known)
    notes = [*raw.notes, *filter(None, (guess, unread_texts(raw.tables[first], columns)))]
    tables = _labelled(raw.tables, columns, notes)
    tables = {split: _agreed(table, str(columns.label), no_label, split, notes) for split, table in tables.items()}
    tables = {split: _complete(table, columns, split, raw.user_editable, notes) for split, table in tables.items()}
    if not tables:
        raise DataError("There is no split with labels.")
    label_map = LabelMap()
    if not regression:
        names = label_names or raw.class_names.get(str(columns.label))
        learned = tables[first if first in tables else next(iter(tables))]
        label_map = class_labels(learned[str(columns.label)], names)
    if label_map.note:
        notes.append(label_map.note)
    tables = with_validation(tables, columns.texts(), notes)
    splits = {split: _standard(table, columns, label_map, split) for split, table in tables.items()}
    read_as = dict(zip(("text_column", "text_pair_column"), columns.texts(), strict=False))
    return TaskData(sampled(splits, source, notes), label_map.names, tuple(notes), read_as, columns.label)


def check_texts(values: Sequence[Any], column: str, where: str = "") -> list[str]:
    """The values, if all of them are texts that are not empty.

    Raises:
        DataError: Some are not; counts them and names the first.
    """
    bad = _empty_rows(values)
    if bad:
        raise DataError(
            f"{len(bad)} of {len(values)} rows{where} have no text in column {column!r}, "
            f"the first is row {bad[0] + 1}: fill or remove them."
        )
    for row, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise DataError(
                f"Row {row}{where} has {short(value)} in column {column!r}: a text is wanted; name another column."
            )
    return list(values)


def _empty_rows(values: Sequence[Any]) -> list[int]:
    return [row for row, value in enumerate(values) if value is None or value != value or not str(value).strip()]


def _labelled(tables: dict[str, Table], columns: Columns, notes: list[str]) -> dict[str, Table]:
    """Leave out test splits whose labels are withheld; every other split must have all the columns."""
    labelled = {}
    for split, table in tables.items():
        labels = table.get(str(columns.label))
        if split.startswith("test") and (labels is None or is_hidden(labels)):
            notes.append(f"The split {split} is left out: its labels are withheld.")
            continue
        missing = [name for name in (*columns.texts(), columns.label) if name not in table]
        if missing:
            there = ", ".join(map(repr, table))
            raise DataError(f"The {split} split lacks the column {missing[0]!r} of the training split; it has {there}.")
        labelled[split] = table
    return labelled


def _agreed(table: Table, label: str, no_label: Sequence[str], split: str, notes: list[str]) -> Table:
    """Leave out the rows that annotators did not agree on."""
    agreed = [row for row, value in enumerate(table[label]) if str(value).strip() not in no_label]
    if len(agreed) == length(table):
        return table
    count = f"{length(table) - len(agreed)} of {length(table)}"
    notes.append(f"{count} rows of the {split} split have no agreed label and are left out.")
    return take(table, agreed)


def _complete(table: Table, columns: Columns, split: str, user_editable: bool, notes: list[str]) -> Table:
    """Refuse empty rows in what the user can mend, drop them from what they cannot."""
    wanted = [*columns.texts(), str(columns.label)]
    label = wanted[-1]
    empty = {name: _empty_rows(table[name]) for name in wanted}
    empty[label] = [row for row, value in enumerate(table[label]) if is_missing(value)]
    bad = set().union(*empty.values())
    if bad and not user_editable:
        notes.append(f"{len(bad)} of {length(table)} rows of the {split} split have an empty field and are left out.")
        table = take(table, [row for row in range(length(table)) if row not in bad])
    elif empty[label]:
        rows = empty[label]
        value = table[label][rows[0]]
        written = f" ({value!r} stands for a missing value; if it is a class, rename it)" if value else ""
        raise DataError(
            f"{len(rows)} of {length(table)} rows of the {split} split have no label in column {label!r}, "
            f"the first is row {rows[0] + 1}: fill or remove them.{written}"
        )
    for name in columns.texts():
        check_texts(table[name], name, f" of the {split} split")
    return {name: table[name] for name in wanted}


def with_validation(tables: dict[str, Table], key_columns: Sequence[str], notes: list[str]) -> dict[str, Table]:
    """Make sure that there is a validation split: a variant of it, or else a part of the training split.

    Args:
        tables: The splits.
        key_columns: Rows that are equal in these stay on one side.
        notes: Gets a sentence on what was done.

    Raises:
        DataError: There are too few training rows to take a part of.
    """
    if "validation" in tables or "train" not in tables:
        return tables
    variant = min((split for split in tables if split.startswith("validation")), default=None)
    if variant is not None:
        notes.append(f"{variant} is used as the validation split.")
        return {"validation" if split == variant else split: table for split, table in tables.items()}
    train, validation = split_off_validation(tables["train"], VALIDATION_FRACTION, key_columns)
    if not length(train) or not length(validation):
        raise DataError(
            f"{length(tables['train'])} training rows are too few to validate on a part: add a validation file."
        )
    notes.append(
        f"There is no validation split: {length(validation)} of {length(tables['train'])} training rows, chosen by a "
        "hash of their text, are set aside for it."
    )
    rest = {split: table for split, table in tables.items() if split != "train"}
    return {"train": train, "validation": validation, **rest}


def _standard(table: Table, columns: Columns, label_map: LabelMap, split: str) -> Table:
    names = ("text", "text_pair")
    texts = {standard: table[name] for standard, name in zip(names, columns.texts(), strict=False)}
    return {**texts, "label": label_map.apply(table[str(columns.label)], split)}


def sampled(splits: dict[str, Table], source: DataSource, notes: list[str]) -> dict[str, Any]:
    """As many rows of each split as the source wants, training first; `notes` gets a sentence for each sample."""
    from datasets import Dataset

    chosen = {}
    for split in sorted(splits, key=lambda name: (name != "train", name != "validation", name)):
        table = splits[split]
        limit = source.max_train_samples if split == "train" else source.max_eval_samples
        part = sample(table, limit, f"{source.seed}:{split}")
        if length(part) < length(table):
            notes.append(f"The {split} split is a sample: {length(part)} of {length(table)} rows, seed {source.seed}.")
        chosen[split] = Dataset.from_dict(part)
    return chosen
