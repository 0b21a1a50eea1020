"""What the runs of a grid answered, row by row."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from propulsion_tools.compare.plan import Run
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import PREDICTIONS_FILE, RunRecord
from propulsion_tools.records.sizes import allowed_bytes
from propulsion_tools.report.statistics import Rows
from propulsion_tools.tasks.majority import is_constant


def read_answers(store: RunStore, run: Run, record: RunRecord) -> Rows:
    """What was kept of each row of the split that is watched; nothing where that is not there, or not whole.

    ``labels`` and ``answers``, or the scores that each row has for itself, by name.
    """
    split = next(iter(record.metrics), "")
    try:
        content = io.BytesIO(data := store.read(run, PREDICTIONS_FILE) or b"")
        if sum(item.file_size for item in zipfile.ZipFile(content).infolist()) > allowed_bytes(len(data)):
            return {}
        with np.load(content, allow_pickle=False) as arrays:
            own = [name for name in arrays.files if name.startswith(f"{split}_")]
            rows = {name.removeprefix(f"{split}_"): arrays[name] for name in own}
    except (
        Exception
    ):  # NumPy, zipfile, zlib and Python's own tokenizer each fail in ways of their own on a damaged file
        return {}
    counts = {array.shape[:1] for array in rows.values()}
    return rows if len(counts) == 1 and () not in counts else {}


def all_alike(rows: Rows) -> bool:
    """Whether every row got the same class, though not all have it."""
    return "answers" in rows and "labels" in rows and is_constant(rows["labels"], rows["answers"])


def are_paired(mine: Rows, other: Rows) -> bool:
    """Whether two runs were scored on the same rows, as far as their labels tell."""
    if mine.keys() != other.keys() or not mine:
        return False
    return all(len(mine[name]) == len(other[name]) for name in mine) and (
        "labels" not in mine or np.array_equal(mine["labels"], other["labels"])
    )
