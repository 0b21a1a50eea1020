"""A part of the training rows to choose settings on, so that the validation split is scored once, at the end."""

from __future__ import annotations

from dataclasses import replace

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import TaskData
from propulsion_tools.tasks.raw_tables import unit_hash

SELECTION = "selection"


def set_aside(data: TaskData, fraction: float) -> TaskData:
    """Split the training rows in two by a hash of all that is in a row but its label, and drop every other split.

    Questions about the same context stay on one side.

    Args:
        data: With a split named train, of any family.
        fraction: The share to set aside, above 0 and below 1; equal inputs stay on one side.

    Returns:
        The splits ``train`` and ``selection``.

    Raises:
        DataError: There are too few training rows to set some aside.
    """
    if "train" not in data.splits:
        raise DataError("selection_fraction sets training rows aside, and this data has no training split.")
    rows = data.splits["train"]
    names = [name for name in sorted(rows.column_names) if name != "label"]
    inputs = [rows[name] for name in (["context"] if "context" in names else names)]
    keys = ["\n".join(map(str, values)) for values in zip(*inputs, strict=True)]
    chosen = [unit_hash(f"{SELECTION}:{key}") < fraction for key in keys]
    rest, aside = ([row for row, is_aside in enumerate(chosen) if is_aside == side] for side in (False, True))
    if not rest or not aside:
        raise DataError(
            f"{len(keys)} training rows are too few to set a share of {fraction:g} aside: "
            "add rows, or raise selection_fraction."
        )
    note = f"{len(aside)} of {len(keys)} training rows, chosen by a hash, are set aside to choose settings on."
    return replace(data, splits={"train": rows.select(rest), SELECTION: rows.select(aside)}, notes=(*data.notes, note))
