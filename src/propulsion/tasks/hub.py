"""A data set from the hub, or from its cache, read into columns."""

from __future__ import annotations

from typing import Any

from propulsion.errors import DataError, require
from propulsion.tasks.files import split_name
from propulsion.tasks.tables import RawSplits

PARQUET = "@refs/convert/parquet"
"""Behind the id of a data set that is a loading script, which `datasets` no longer runs: the hub's copy in parquet."""


def read_hub(name: str, config: str | None = None) -> RawSplits:
    """Load every split of a hub data set whose name stands for one.

    Args:
        name: Data set id; after an ``@``, the revision, such as ``refs/convert/parquet``.
        config: Its configuration, where it has several.

    Raises:
        DataError: It cannot be reached or loaded, or has no training split.
        MissingExtraError: datasets is not installed.
    """
    datasets = require("datasets", "train")
    where = f"{name} ({config})" if config else name
    identifier, _, revision = name.partition("@")
    try:
        loaded = datasets.load_dataset(identifier, config, **({"revision": revision} if revision else {}))
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
    tables = {split: {column: list(rows[column]) for column in rows.column_names} for split, rows in splits.items()}
    return RawSplits(tables, class_names=_class_names(splits["train"].features), mendable=False)


def _class_names(features: Any) -> dict[str, tuple[str, ...]]:
    """The names of label ids, for the columns that have them."""
    kinds = {column: getattr(kind, "feature", kind) for column, kind in features.items()}  # a list's, for tags of words
    return {column: tuple(kind.names) for column, kind in kinds.items() if hasattr(kind, "names")}
