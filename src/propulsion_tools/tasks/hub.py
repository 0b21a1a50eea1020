"""A data set from the hub, or from its cache, read into columns."""

from __future__ import annotations

from typing import Any

from propulsion_tools.errors import DataError, require
from propulsion_tools.tasks.data_files import split_name
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows

PARQUET = "@refs/convert/parquet"
"""Behind the id of a data set that is a loading script, which `datasets` no longer runs: the hub's copy in parquet."""


SHUFFLED = 10_000  # rows of a stream that are held to draw from


def read_hub(
    name: str, config: str | None = None, most: tuple[int | None, int | None] = (None, None), seed: int = 42
) -> RawSplits:
    """Load every split of a hub data set whose name stands for one.

    Args:
        name: Data set id; after an ``@``, the revision, such as ``refs/convert/parquet``.
        config: Its configuration, where it has several.
        most: Rows that are wanted of the training split and of each other split; where both are given, the data set
            is streamed rather than downloaded whole.
        seed: Decides which rows are drawn from a stream.

    Raises:
        DataError: It cannot be reached or loaded, or has no training split.
        MissingExtraError: datasets is not installed.
    """
    datasets = require("datasets", "train")
    where = f"{name} ({config})" if config else name
    identifier, _, revision = name.partition("@")
    streamed = None not in most
    options = {**({"revision": revision} if revision else {}), **({"streaming": True} if streamed else {})}
    try:
        loaded = datasets.load_dataset(identifier, config, **options)
    except ConnectionError as error:
        raise DataError(
            f"Cannot reach the hub for the data set {where}: {error}. Without a network, put its train and validation "
            "files into a folder and name it with --data_dir."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # no such id, no such configuration, a loading script
        raise DataError(
            f"Cannot load the data set {where} from the hub: {error}. Check --dataset_name and "
            "--dataset_config_name, or put its files into a folder and name it with --data_dir."
        ) from error
    splits = {known: rows for split, rows in loaded.items() if (known := split_name(split)) is not None}
    if "train" not in splits:
        raise DataError(f"The data set {where} has no training split; it has {', '.join(loaded)}.")
    names = _class_names(splits["train"].features or {})
    if streamed:
        limits = {split: most[split != "train"] for split in splits}
        tables = {split: _drawn(rows, int(limits[split] or 0), seed) for split, rows in splits.items()}
        note = f"{where} is streamed: rows are drawn from the first {SHUFFLED:,} of each split and those that follow."
        return RawSplits(tables, (note,), names, user_editable=False)
    tables = {split: {column: list(rows[column]) for column in rows.column_names} for split, rows in splits.items()}
    return RawSplits(tables, class_names=names, user_editable=False)


def first_rows(name: str, most: int) -> list[dict[str, Any]]:
    """The first rows of the training split of a hub data set, in their order, without a download of all of it.

    Args:
        name: Data set id; after an ``@``, the revision.
        most: How many rows.

    Raises:
        DataError: It cannot be reached or loaded, or has no training split.
        MissingExtraError: datasets is not installed.
    """
    datasets = require("datasets", "train")
    identifier, _, revision = name.partition("@")
    try:
        rows = datasets.load_dataset(identifier, split="train", streaming=True, revision=revision or None)
        return list(rows.take(most))
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such id, no training split
        raise DataError(
            f"Cannot read texts from the data set {name} on the hub: {error}. Check its id and the network, or name a "
            "file with a column 'text' in its place."
        ) from error


def _drawn(rows: Any, count: int, seed: int) -> Table:
    """Rows from a stream, more than are wanted, for some may have to be left out."""
    return from_rows(list(rows.shuffle(seed=seed, buffer_size=SHUFFLED).take(2 * count)))


def _class_names(features: Any) -> dict[str, tuple[str, ...]]:
    """The names of label ids, for the columns that have them."""
    kinds = {column: getattr(kind, "feature", kind) for column, kind in features.items()}  # a list's, for tags of words
    return {column: tuple(kind.names) for column, kind in kinds.items() if hasattr(kind, "names")}
