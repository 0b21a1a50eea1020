"""Inputs become rows of the model, and its scores answers, by the task that an adapter was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from propulsion_tools.serving.cards import Card
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.serving.rows import PlainRows
from propulsion_tools.tasks import ModelKind
from propulsion_tools.tasks.base import EVAL, INDEX, accepted_by
from propulsion_tools.tasks.model_kinds import QUESTION_ANSWERER
from propulsion_tools.training.asked_rows import read_rows
from propulsion_tools.upstream.transformers_private import nested_concat

Input = str | Mapping[str, Any]
Row = dict[str, Any]
Answer = tuple[np.ndarray, ...]
"""What the model gave for one row, each of shape (1, …)."""


@dataclass(frozen=True)
class Question:
    """The inputs of one request.

    Attributes:
        rows: As the task reads them.
        encoded: As token ids; one or more for each of them.
    """

    rows: PlainRows
    encoded: list[Row]


def accepted(model: Any, kind: ModelKind) -> set[str]:
    """Names of the arguments that an adapter was trained to read.

    `PeftModelForQuestionAnswering` takes `token_type_ids` and does not hand them on to the model.
    """
    names = accepted_by(model)
    return names - {"token_type_ids"} if kind is QUESTION_ANSWERER else names


def encode(card: Card, inputs: Sequence[Input], names: set[str], max_tokens: int) -> Question:
    """Inputs as rows of the model.

    Args:
        card: The adapter's.
        inputs: Texts, or rows by column.
        names: The arguments of the model, from `accepted`.
        max_tokens: Of one input.

    Raises:
        DataError: An input is not what the task reads.
        ApiError: An input is too long (413).
    """
    lines = all(isinstance(value, str) for value in inputs)
    given = [{"text": value} if isinstance(value, str) else dict(value) for value in inputs]
    for row in given:
        _check_tokens(row, card, max_tokens)
    rows = PlainRows(read_rows(card.task, given, lines, card.read, card.named)[:])
    encoded = card.task.encode(rows, card.setup, training=False).rows
    kept = {name for name in encoded.column_names if name in names or name.startswith(EVAL)}
    return Question(rows, encoded.as_rows(kept))


def _check_tokens(row: Row, card: Card, most: int) -> None:
    texts = [part for value in row.values() for part in (value if isinstance(value, list) else [value])]
    texts = [text for text in texts if isinstance(text, str)]
    if sum(len(text.encode()) for text in texts) <= most:  # a token has at least one byte
        return
    ids = card.setup.tokenizer(texts, add_special_tokens=False).input_ids
    if (count := sum(map(len, ids))) > most:
        raise ApiError(f"An input has {count} tokens, and {most} are allowed: shorten it.", 413, "input_too_long")


def decode(card: Card, question: Question, answers: Sequence[Answer]) -> list[Row]:
    """The task's answers, one for each input.

    Args:
        card: The adapter's.
        question: From `encode`.
        answers: The model's, one for each encoded row.
    """
    together: Any = answers[0]
    for answer in answers[1:]:
        together = nested_concat(together, answer, padding_index=-100)
    index = [row[INDEX] for row in question.encoded]
    rows: Any = question.rows
    decoded: list[Row] = card.task.decode(together if len(together) > 1 else together[0], index, rows, card.setup)
    return decoded
