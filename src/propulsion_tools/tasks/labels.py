"""From the values of a label column to ids, the same for every split, and what is refused on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from propulsion_tools.errors import DataError

_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class LabelMap:
    """What the labels of a data set mean.

    Args:
        names: Names of the ids, in their order; None for regression.
        ids: The id of each value; empty for regression.
        note: What was decided, for the user.
    """

    names: tuple[str, ...] | None = None
    ids: Mapping[Any, int] = field(default_factory=dict)
    note: str | None = None

    def apply(self, values: Sequence[Any], split: str) -> list[Any]:
        """The ids (or, for regression, the numbers) of a split's labels.

        Raises:
            DataError: A label does not occur in the training split.
        """
        if self.names is None:
            return _floats(values, split)
        values = canonical(values, split)
        unseen = sorted({str(value) for value in values if value not in self.ids})
        if unseen:
            raise DataError(
                f"The {split} split has labels that the training split lacks: {_listed(unseen)}; "
                f"it has {_listed(self.ids)}. Give both splits the same labels."
            )
        return [self.ids[value] for value in values]


def is_hidden(values: Sequence[Any]) -> bool:
    """Whether every label is -1 or empty, which is how public data sets withhold the answers of a test split."""
    return bool(values) and all(value is None or str(value).strip() in ("-1", "-1.0", "") for value in values)


def class_labels(values: Sequence[Any], known: tuple[str, ...] | None) -> LabelMap:
    """Learn the classes of a training split.

    Args:
        values: Its labels: whole numbers, also as text, or names.
        known: Names of the classes in the order of their ids, where the data set or the hub gives them.

    Raises:
        DataError: There is one class only, or the labels are neither whole numbers nor names.
    """
    distinct = sorted(set(canonical(values, "train")))
    if len(distinct) < 2:
        raise DataError(f"Every training row has the label {distinct[0]!r}: training needs at least two classes.")
    if known is not None:
        names_to_ids = {name: index for index, name in enumerate(known)}
        if all(isinstance(value, int) and 0 <= value < len(known) for value in distinct):
            return LabelMap(known, {index: index for index in range(len(known))})
        if all(value in names_to_ids for value in distinct):
            return LabelMap(known, names_to_ids)
    names = tuple(str(value) for value in distinct)
    ids = {value: index for index, value in enumerate(distinct)}
    note = None
    if known is not None:
        note = (
            f"The labels are not the expected {_listed(known)}; they are, in the order of their ids, {_listed(names)}."
        )
    elif distinct != list(range(len(distinct))):
        pairs = _listed(f"{name} = {index}" for index, name in enumerate(names))
        note = f"Labels are numbered in sorted order: {pairs}."
    return LabelMap(names, ids, note)


def canonical(values: Sequence[Any], split: str) -> list[Any]:
    """Labels as whole numbers where all of them are, as text or as numbers; otherwise as names.

    Raises:
        DataError: They are fractions, a mixture of numbers and names, or neither.
    """
    if all(isinstance(value, str) for value in values):
        stripped = [value.strip() for value in values]
        return [int(value) for value in stripped] if all(map(_INTEGER.fullmatch, stripped)) else stripped
    for row, value in enumerate(values, 1):
        if not isinstance(value, bool | int | float):
            raise DataError(
                f"Row {row} of the {split} split has the label {value!r}: labels are all whole numbers or all names."
            )
        if not math.isfinite(value) or value != int(value):
            raise DataError(
                f"Row {row} of the {split} split has the label {value!r}, which is no class: "
                "classes are whole numbers or names; numbers to be predicted belong to a regression task such as stsb."
            )
    return [int(value) for value in values]


def _floats(values: Sequence[Any], split: str) -> list[float]:
    numbers = []
    for row, value in enumerate(values, 1):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"Row {row} of the {split} split has the label {value!r}, which is not a number to predict."
            )
        numbers.append(number)
    return numbers


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
