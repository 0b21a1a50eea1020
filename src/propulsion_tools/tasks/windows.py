"""Long texts as overlapping windows of tokens, and the way back from tokens to characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from propulsion_tools.errors import DataError, OptionError

LONGEST_ANSWER = 30  # tokens
OUTSIDE = -1  # the character offset of tokens that are not of the context
Columns = dict[str, list[Any]]


def require_offsets(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say which characters a token stands for.

    Raises:
        OptionError: It cannot.
    """
    if not tokenizer.is_fast:
        raise OptionError(
            f"{type(tokenizer).__name__} does not know which characters its tokens stand for, which this task needs: "
            "choose a model that has a fast tokenizer."
        )


def question_windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: Any,
    max_length: int,
    stride: int,
    numbers: Sequence[int] | None = None,
) -> Columns:
    """Every question with every window of its context.

    Args:
        questions: One for each context.
        contexts: What is searched for the answer.
        tokenizer: A fast one.
        max_length: Tokens of a window, with the question and the marks.
        stride: Tokens that two windows of one context share.
        numbers: What a message calls the rows; None: they are counted from 1.

    Returns:
        What the tokenizer gives for each window, ``example`` (the row it is from), ``start_chars`` and ``end_chars``
        (for each token of the context its characters, `OUTSIDE` for other tokens).

    Raises:
        DataError: A question leaves no room for its context.
        OptionError: The tokenizer has no offsets.
    """
    require_offsets(tokenizer)
    _check_room(questions, tokenizer, max_length, stride, numbers or range(1, len(questions) + 1))
    tokens = tokenizer(
        list(questions),
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    columns: Columns = {name: tokens[name] for name in tokenizer.model_input_names if name in tokens}
    columns["example"] = tokens["overflow_to_sample_mapping"]
    columns["start_chars"], columns["end_chars"] = [], []
    for window, offsets in enumerate(tokens["offset_mapping"]):
        spans = [
            span if part == 1 and span[0] < span[1] else (OUTSIDE, OUTSIDE)
            for span, part in zip(offsets, tokens.sequence_ids(window), strict=True)
        ]
        columns["start_chars"].append([start for start, _ in spans])
        columns["end_chars"].append([end for _, end in spans])
    return columns


def _check_room(questions: Sequence[str], tokenizer: Any, max_length: int, stride: int, numbers: Sequence[int]) -> None:
    marks = tokenizer.num_special_tokens_to_add(pair=True)
    read = tokenizer(list(questions), add_special_tokens=False)["input_ids"]
    for row, ids in zip(numbers, read, strict=True):
        if len(ids) + marks + stride >= max_length:
            raise DataError(
                f"The question in row {row} has {len(ids)} tokens, which leaves too few of max_length {max_length} for "
                f"windows of its context that share {stride}: raise --max_length, or shorten the question."
            )


def null_position(input_ids: Sequence[int], cls_token_id: int | None) -> int:
    """The token that stands for "no answer": the one that marks the class, or else the first."""
    return input_ids.index(cls_token_id) if cls_token_id in input_ids else 0


def token_span(start_chars: Sequence[int], end_chars: Sequence[int], start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of the characters from `start` to `end`; None if the window lacks some of them."""
    inside = [token for token, char in enumerate(start_chars) if char != OUTSIDE]
    if not inside or start_chars[inside[0]] > start or end_chars[inside[-1]] < end:
        return None
    touched = [token for token in inside if start_chars[token] < end and end_chars[token] > start]
    return (touched[0], touched[-1]) if touched else None


def best_spans(
    start_logits: Tensor, end_logits: Tensor, start_chars: Tensor, end_chars: Tensor, null: Tensor
) -> tuple[Tensor, Tensor]:
    """The best span of each window, and its score beside that of "no answer".

    Args:
        start_logits: Of the first token, (windows, tokens).
        end_logits: Of the last token, (windows, tokens).
        start_chars: As `question_windows` gives them, (windows, tokens).
        end_chars: The same.
        null: The token that stands for "no answer", (windows,).

    Returns:
        Characters from and to, int64, (windows, 2), and the scores of the span and of "no answer", (windows, 2). A
        window without any token of the context has an empty span and minus infinity.
    """
    starts, ends = start_logits.float(), end_logits.float()
    inside, count = start_chars != OUTSIDE, start_chars.shape[1]
    allowed = torch.ones(count, count, dtype=torch.bool, device=starts.device).triu().tril(LONGEST_ANSWER - 1)
    allowed = allowed & inside[:, :, None] & inside[:, None, :]
    scores = (starts[:, :, None] + ends[:, None, :]).masked_fill(~allowed, -torch.inf).flatten(1)
    best, place = scores.max(dim=1)
    first, last = place // count, place % count
    rows = torch.arange(len(place), device=place.device)
    chars = torch.stack([start_chars[rows, first], end_chars[rows, last]], dim=1)
    chars = chars.masked_fill(best.isneginf()[:, None], 0)
    return chars, torch.stack([best, starts[rows, null] + ends[rows, null]], dim=1)


def word_windows(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> Columns:
    """Words as windows of tokens, each word at its first token once.

    The words are joined by spaces, so that every tokenizer sees a text as it knows texts.

    Args:
        sentences: The words of each row.
        tokenizer: A fast one.
        max_length: Tokens of a window, with the marks.

    Returns:
        What the tokenizer gives for each window, ``example`` (the row it is from) and ``words``: for each token the
        number of the word that it opens, -1 for all others.

    Raises:
        OptionError: The tokenizer has no offsets.
    """
    require_offsets(tokenizer)
    tokens = tokenizer(
        [" ".join(words) for words in sentences],
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    columns: Columns = {name: tokens[name] for name in tokenizer.model_input_names if name in tokens}
    columns["example"], columns["words"] = tokens["overflow_to_sample_mapping"], []
    opened: set[tuple[int, int]] = set()
    owners = [_owners(words) for words in sentences]
    for example, offsets in zip(columns["example"], tokens["offset_mapping"], strict=True):
        numbers = []
        for start, end in offsets:
            # the last character: the first may be the space before the word
            word = owners[example][end - 1] if start < end else -1
            first = word >= 0 and (example, word) not in opened
            opened.add((example, word))
            numbers.append(word if first else -1)
        columns["words"].append(numbers)
    return columns


def _owners(words: Sequence[str]) -> list[int]:
    """For each character of the words joined by spaces, the number of its word; -1 for the spaces."""
    owners: list[int] = []
    for number, word in enumerate(words):
        owners += [-1] * bool(number) + [number] * len(word)
    return owners
