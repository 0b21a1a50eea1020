"""Answers to questions in whatever form a file has them, brought to texts with the character at which they start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.raw_tables import Table, length, short, take

Answers = dict[str, list[Any]]
"""``text`` and ``answer_start``, equally long, as in SQuAD; both empty where the context has no answer."""


def with_answers(table: Table, split: str, unanswerable: bool, user_editable: bool) -> tuple[Table, list[str]]:
    """The rows with their answers in the form of SQuAD.

    Args:
        table: Columns ``context``, ``question`` and ``answers`` in any form that `standard_answers` takes.
        split: Its name.
        unanswerable: Whether questions may be without an answer.
        user_editable: Whether the user can edit the source: bad rows are refused then, and left out otherwise.

    Returns:
        The rows, and what was left out.

    Raises:
        DataError: Some rows have no answer, or one that does not stand in their context; counts and names the first.
    """
    standard = []
    for row, (value, context) in enumerate(zip(table["answers"], table["context"], strict=True), 1):
        try:
            standard.append(standard_answers(value, context))
        except DataError as error:
            raise DataError(f"Row {row} of the {split} split: {error}.") from error
    absent = [row for row, answers in enumerate(standard) if answers is None]
    empty = [] if unanswerable else [row for row, answers in enumerate(standard) if answers and not answers["text"]]
    notes = []
    for bad, what, remedy in (
        (absent, "an answer that does not stand in the context", "an answer is a span of it, so mend or remove them"),
        (empty, "no answer", "remove them, or choose a task such as squad_v2, where a question may be without one"),
    ):
        if bad and user_editable:
            first = f"the first is row {bad[0] + 1} ({short(table['answers'][bad[0]])})"
            raise DataError(f"{len(bad)} of {length(table)} rows of the {split} split have {what}, {first}: {remedy}.")
        if bad:
            notes.append(f"{len(bad)} of {length(table)} rows of the {split} split have {what} and are left out.")
    left_out = {*absent, *empty}
    usable = [row for row in range(length(table)) if row not in left_out]
    return take({**table, "answers": standard}, usable), notes


def standard_answers(value: Any, context: str) -> Answers | None:
    """The answers of one row, each at its place in the context.

    Args:
        value: ``{"text": …, "answer_start": …}`` with lists or single values, a list of such, a text, or a list of
            texts. Without a start, or with one that is wrong, the first place where the text stands is taken.
        context: What they are spans of.

    Returns:
        The answers; None if the first of them does not stand in the context. Further ones that do not are left out.

    Raises:
        DataError: The value is of another form.
    """
    pairs = _texts_and_starts(value)
    placed = [(text, place) for text, start in pairs if (place := _place(text, start, context)) >= 0]
    if pairs and (not placed or placed[0][0] != pairs[0][0]):
        return None
    return {"text": [text for text, _ in placed], "answer_start": [place for _, place in placed]}


def _texts_and_starts(value: Any) -> list[tuple[str, int | None]]:
    items = [value] if value is None or isinstance(value, str | Mapping) else value
    if not isinstance(items, Sequence):
        raise DataError(f"the answer {short(value)} is neither a text nor a list of texts")
    pairs: list[tuple[str, int | None]] = []
    for item in items:
        inner = item if isinstance(item, Mapping) else {"text": item}
        texts, starts = _listed(inner.get("text")), _listed(inner.get("answer_start"))
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"the answer {short(item)} has no text")
        starts = starts if len(starts) == len(texts) else [None] * len(texts)
        pairs += [(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]
    return pairs


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _place(text: str, start: Any, context: str) -> int:
    if isinstance(start, int) and start >= 0 and context.startswith(text, start):
        return start
    return context.find(text)
