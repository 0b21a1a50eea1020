"""A part of the training rows to choose settings on, so that the validation split is scored once, at the end."""

from __future__ import annotations

from dataclasses import replace

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import TaskData
from propulsion_tools.tasks.raw_tables import unit_hash

SELECTION = "selection"


def set_aside(data: TaskData, fraction: float, most: int | None = None) -> TaskData:
    """Split the training rows in two by a hash of all that is in a row but its label, and drop every other split.

    Questions about the same context stay on one side.

    Args:
        data: With a split named train, of any family.
        fraction: The share to set aside, above 0 and below 1; equal inputs stay on one side.
        most: Keep at most so many of the rows that are set aside; those that are trained on stay the same.

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
    places = [unit_hash(f"{SELECTION}:{key}") for key in keys]
    rest = [row for row, place in enumerate(places) if place >= fraction]
    aside = [row for row, place in enumerate(places) if place < fraction]
    if not rest or not aside:
        raise DataError(
            f"{len(keys)} training rows are too few to set a share of {fraction:g} aside: "
            "add rows, or raise selection_fraction."
        )
    note = f"{len(aside)} of {len(keys)} training rows, chosen by a hash, are set aside to choose settings on."
    if most is not None and most < len(aside):
        note = f"{note.removesuffix('.')}; {most} of them are kept."
        whole = {row: unit_hash("\n".join(str(rows[row][name]) for name in names)) for row in aside}
        aside = sorted(sorted(aside, key=lambda row: whole[row])[:most])
    return replace(data, splits={"train": rows.select(rest), SELECTION: rows.select(aside)}, notes=(*data.notes, note))
