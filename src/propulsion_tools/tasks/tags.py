"""The tags of words: from names or numbers to ids that are the same for every split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.raw_tables import short

_TAG = re.compile(r"O|[BIES]-\S.*")
_NUMBER = re.compile(r"[+-]?\d{1,300}")
OUTSIDE = "O"


def tag_names(rows: Sequence[Sequence[Any]], known: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the tags in the order of their ids.

    Args:
        rows: The tags of the training split: names (O, B-type, I-type; E- and S- as well), or numbers.
        known: The names in the order of their ids, where the data set or the hub gives them; needed for numbers.

    Raises:
        DataError: Tags are numbers without known names, or not of this form, or every word has the same tag.
    """
    seen = _values(rows)
    if all(isinstance(value, int) for value in seen):
        if known is None:
            raise DataError(
                "The tags are numbers, and nothing says what they are called: entity F1 needs names, write O, B-type "
                "and I-type instead."
            )
        return known
    names = {str(value) for value in seen}
    if known is not None and names <= set(known):
        return known
    strange = sorted(name for name in names if not _TAG.fullmatch(name))
    if strange:
        raise DataError(f"The tag {short(strange[0])} is not O, B-type or I-type, which entity F1 is counted with.")
    kinds = sorted({name[2:] for name in names if name != OUTSIDE})
    if not kinds:
        raise DataError("Every word of the training split has the tag O: there is nothing to learn.")
    prefixes = [prefix for prefix in "BIES" if prefix in "BI" or any(name[0] == prefix for name in names - {OUTSIDE})]
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in prefixes))


def tag_ids(rows: Sequence[Sequence[Any]], names: tuple[str, ...], split: str) -> list[list[int]]:
    """The ids of a split's tags.

    Raises:
        DataError: A tag is not a name of the training split, out of range, or a fraction; names the row.
    """
    ids = {name: number for number, name in enumerate(names)}
    done = []
    for row, tags in enumerate(rows, 1):
        numbers = []
        for tag in tags:
            number = ids.get(tag.strip()) if isinstance(tag, str) and not _NUMBER.fullmatch(tag) else _whole(tag)
            if number is None or not 0 <= number < len(names):
                raise DataError(
                    f"Row {row} of the {split} split has the tag {short(tag)}: the tags are {', '.join(names[:12])}"
                    f"{' and more' if len(names) > 12 else ''}, or their numbers from 0 to {len(names) - 1}."
                )
            numbers.append(number)
        done.append(numbers)
    return done


def check_lengths(words: Sequence[Any], tags: Sequence[Any], split: str) -> None:
    """Refuse rows that are not lists of words with one tag each.

    Raises:
        DataError: Names the row.
    """
    for row, (some, marks) in enumerate(zip(words, tags, strict=True), 1):
        if not isinstance(some, list) or not some or not all(isinstance(word, str) and word.strip() for word in some):
            texts = ": it is a text, and a .csv has no lists; write .jsonl or .parquet" if isinstance(some, str) else ""
            raise DataError(f"Row {row} of the {split} split is not a list of words that are not empty{texts}.")
        if not isinstance(marks, list) or len(marks) != len(some):
            count = len(marks) if isinstance(marks, list) else "no list of"
            raise DataError(f"Row {row} of the {split} split has {len(some)} words and {count} tags: each has one.")


def _values(rows: Iterable[Sequence[Any]]) -> set[Any]:
    seen = {tag.strip() if isinstance(tag, str) else tag for tags in rows for tag in tags}
    whole = {tag: _whole(tag) for tag in seen}
    if all(value is not None for value in whole.values()):
        return set(whole.values())
    strange = [tag for tag in seen if not isinstance(tag, str)]
    if strange:
        raise DataError(f"The tag {short(strange[0])} is neither a name nor a whole number.")
    return seen


def _whole(tag: Any) -> int | None:
    if isinstance(tag, str):
        return int(tag) if _NUMBER.fullmatch(tag.strip()) else None
    if isinstance(tag, bool) or not isinstance(tag, int | float) or tag != tag or tag in (float("inf"), -float("inf")):
        return None
    return int(tag) if tag == int(tag) else None
