"""Answers to questions in whatever form a file has them, brought to texts with the character at which they start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from propulsion.errors import DataError

Answers = dict[str, list[Any]]
"""``text`` and ``answer_start``, equally long, as in SQuAD; both empty where the context has no answer."""


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
    texts, starts = _texts_and_starts(value)
    found = [
        (text, place) for text, start in zip(texts, starts, strict=True) if (place := _place(text, start, context)) >= 0
    ]
    if texts and (not found or found[0][0] != texts[0]):
        return None
    return {"text": [text for text, _ in found], "answer_start": [place for _, place in found]}


def _texts_and_starts(value: Any) -> tuple[list[str], list[int | None]]:
    items = [value] if isinstance(value, str | Mapping) else value
    if value is None:
        return [], []
    if not isinstance(items, Sequence):
        raise DataError(f"the answer {value!r} is neither a text nor a list of texts")
    texts: list[str] = []
    starts: list[int | None] = []
    for item in items:
        inner = item if isinstance(item, Mapping) else {"text": item}
        some = _listed(inner.get("text"))
        begin = _listed(inner.get("answer_start"))
        if not all(isinstance(text, str) for text in some):
            raise DataError(f"the answer {item!r} has no text")
        pairs = zip(some, begin or [None] * len(some), strict=False)
        for text, start in pairs:
            if text.strip():
                texts.append(text)
                starts.append(start)
    return texts, starts


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str | int) else list(value)


def _place(text: str, start: int | None, context: str) -> int:
    if isinstance(start, int) and start >= 0 and context.startswith(text, start):
        return start
    return context.find(text)
