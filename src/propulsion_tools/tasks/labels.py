"""From the values of a label column to ids, the same for every split, and what is refused on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.raw_tables import short

_INTEGER = re.compile(r"[+-]?\d{1,300}(\.0*)?")  # also as pandas writes the integers of a column with gaps
_FRACTION = re.compile(r"[+-]?(\d*\.)?\d+([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_BOOLEANS = {"false": 0, "true": 1}
_MISSING = frozenset(
    ("", "nan", "NaN", "-nan", "-NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaT", "None", "null", "NULL")
)
"""What stands for nothing in a column of labels, as pandas writes and reads it."""


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
        found = {value: _found(value, self.ids) for value in set(map(_hashable, values))}
        unseen = sorted(str(value) for value, number in found.items() if number is None)
        if unseen:
            raise DataError(
                f"The {split} split has labels that the training split lacks: {_listed(unseen)}; "
                f"it has {_listed(self.ids)}. Give both splits the same labels."
            )
        return [found[_hashable(value)] for value in values]


def is_missing(value: Any) -> bool:
    """Whether a label is none: null, not a number, or what pandas writes in their place."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() in _MISSING


def is_hidden(values: Sequence[Any]) -> bool:
    """Whether every label is -1 or missing, which is how public data sets withhold the answers of a test split."""
    return bool(values) and all(is_missing(value) or str(value).strip() in ("-1", "-1.0") for value in values)


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
        if len({name.casefold() for name in names}) < len(names):
            note += " Some differ in case only, and are different classes."
        if any(isinstance(value, str) for value in distinct) and all(map(_FRACTION.fullmatch, names)):
            note += " They look like numbers: to predict these, say --task text-regression."
    return LabelMap(names, ids, note)


def canonical(values: Sequence[Any], split: str) -> list[Any]:
    """Labels as whole numbers where all of them are, as text or as numbers; otherwise as names.

    Raises:
        DataError: They are fractions, a mixture of numbers and names, or neither.
    """
    whole = [_whole(value) for value in values]
    if all(number is not None for number in whole):
        return whole
    if all(isinstance(value, str) for value in values):
        return [value.strip() for value in values]
    for row, (value, number) in enumerate(zip(values, whole, strict=True), 1):
        if number is not None:
            continue
        if isinstance(value, float):
            raise DataError(
                f"Row {row} of the {split} split has the label {value!r}, which is no class: "
                "classes are whole numbers or names. To predict numbers, say --task text-regression."
            )
        raise DataError(
            f"Row {row} of the {split} split has the label {short(value)}: labels are all whole numbers or all names."
            f"{_other_task(value)}"
        )
    raise AssertionError("one of them is no whole number")


def _whole(value: Any) -> int | None:
    """A label as a whole number, whether it is one or a text that holds one; None if it is another thing."""
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _INTEGER.fullmatch(text) else None
    if isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return None


def _found(value: Any, ids: Mapping[Any, int]) -> int | None:
    """The id of a label that may be written in another way than in the training split: 1, "1", "1.0", true."""
    text = str(value).strip()
    truth = _BOOLEANS.get(text.lower())
    numbers = [number for number in (_whole(value), truth) if number is not None]
    forms = [text, *numbers, *map(str, numbers)]
    if truth is not None:
        forms += [name for name in ids if isinstance(name, str) and name.lower() == text.lower()]
    return next((ids[form] for form in forms if form in ids), None)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else repr(value)


def _other_task(value: Any) -> str:
    return " Lists of tags belong to --task token-classification." if isinstance(value, list) else ""


def _floats(values: Sequence[Any], split: str) -> list[float]:
    numbers = []
    for row, value in enumerate(values, 1):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            hint = ": write a point for the comma" if _DECIMAL_COMMA.fullmatch(str(value).strip()) else ""
            raise DataError(
                f"Row {row} of the {split} split has the label {short(value)}, which is not a number to predict{hint}."
            )
        numbers.append(number)
    return numbers


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
