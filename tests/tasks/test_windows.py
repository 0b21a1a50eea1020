"""Windows lose nothing: every character of a context and every word of a sentence is in one, at its place."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.tasks.windows import (
    LONGEST_ANSWER,
    OUTSIDE,
    best_spans,
    null_position,
    question_windows,
    token_span,
    word_windows,
)

CONTEXT = " ".join(f"w{number % 20}" for number in range(30))


def test_windows_share_the_stride_and_cover_the_context(tokenizer: Any) -> None:
    windows = question_windows(["w1 w2"], [CONTEXT], tokenizer, 14, 4)
    assert set(windows["example"]) == {0}
    texts = [
        [CONTEXT[start:end] for start, end in zip(starts, ends, strict=True) if start != OUTSIDE]
        for starts, ends in zip(windows["start_chars"], windows["end_chars"], strict=True)
    ]
    assert [word for text in texts[:1] for word in text] + [
        word for text in texts[1:] for word in text[4:]
    ] == CONTEXT.split()
    assert all(len(ids) <= 14 for ids in windows["input_ids"])
    assert all(one[-4:] == other[:4] for one, other in pairwise(texts))


def test_a_span_is_found_in_the_windows_that_have_all_of_it(tokenizer: Any) -> None:
    start = CONTEXT.index("w9 w10")
    end = start + len("w9 w10")
    windows = question_windows(["w1 w2"], [CONTEXT], tokenizer, 14, 4)
    found = []
    for starts, ends in zip(windows["start_chars"], windows["end_chars"], strict=True):
        span = token_span(starts, ends, start, end)
        if span is not None:
            found.append(CONTEXT[starts[span[0]] : ends[span[1]]])
    assert found == ["w9 w10"]
    assert token_span([OUTSIDE] * 3, [OUTSIDE] * 3, 0, 1) is None


def test_half_a_token_takes_the_whole(tokenizer: Any) -> None:
    windows = question_windows(["w1"], ["w12 w13"], tokenizer, 14, 4)
    start_chars, end_chars = windows["start_chars"][0], windows["end_chars"][0]
    span = token_span(start_chars, end_chars, 1, 3)
    assert span is not None
    assert (start_chars[span[0]], end_chars[span[1]]) == (0, 3)


def test_a_question_that_leaves_no_room_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"question in row 2 has 9 tokens.*max_length 14.*share 4"):
        question_windows(["w1", "w1 " * 9], [CONTEXT, CONTEXT], tokenizer, 14, 4)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(OptionError, match="Slow does not know which characters"):
        word_windows([["w1"]], Slow(), 8)


def test_no_answer_stands_at_the_mark_of_the_class() -> None:
    assert (null_position([5, 6, 1, 7], 1), null_position([5, 6], None), null_position([5, 6], 9)) == (2, 0, 0)


def _brute(starts: Any, ends: Any, inside: list[bool]) -> float:
    count = len(inside)
    pairs = [
        (first, last)
        for first in range(count)
        for last in range(first, min(count, first + LONGEST_ANSWER))
        if inside[first] and inside[last]
    ]
    return max(float(starts[first] + ends[last]) for first, last in pairs)


def test_the_best_span_is_the_best_of_all() -> None:
    chars = torch.tensor([[OUTSIDE, *(3 * token for token in range(49))]] * 4)
    chars[:, 40:44] = OUTSIDE
    starts, ends = torch.randn(4, 50), torch.randn(4, 50)
    starts[:, 0] = ends[:, 0] = 9.0
    starts[0, 1], ends[0, 39] = 50.0, 50.0  # 39 tokens are too long for an answer
    spans, scores = best_spans(starts, ends, chars, chars + (chars != OUTSIDE) * 2, torch.zeros(4, dtype=torch.long))
    for row in range(4):
        inside = (chars[row] != OUTSIDE).tolist()
        assert scores[row, 0] == pytest.approx(_brute(starts[row], ends[row], inside))
        first, last = spans[row].tolist()
        assert starts[row, first // 3 + 1] + ends[row, (last - 2) // 3 + 1] == scores[row, 0]
    assert scores[:, 1].tolist() == [18.0] * 4


def test_a_window_without_context_has_no_span() -> None:
    nothing = torch.full((1, 3), OUTSIDE)
    spans, scores = best_spans(torch.ones(1, 3), torch.ones(1, 3), nothing, nothing, torch.tensor([0]))
    assert spans.tolist() == [[0, 0]]
    assert scores[0, 0] == -torch.inf


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """Sub-words that carry the space before a word, as RoBERTa's and GPT's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    inner.train_from_iterator(["the quick brown fox", "a brown dog"] * 9, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize("max_length", [6, 9, 64])
def test_each_word_is_opened_once_by_its_first_token(byte_level: Any, max_length: int) -> None:
    rng = random.Random(0)
    words = ["the", "quickest", "fox", "(", "日本", "dog", "a-b", "x" * 12]
    sentences = [rng.choices(words, k=count) for count in (1, 5, 20)]
    windows = word_windows(sentences, byte_level, max_length)
    for example, sentence in enumerate(sentences):
        opened: list[int] = []
        for index, owner in enumerate(windows["example"]):
            if owner == example:
                ids, numbers = windows["input_ids"][index], windows["words"][index]
                assert len(ids) <= max_length
                for place, number in enumerate(numbers):
                    if number >= 0:
                        piece = byte_level.decode([ids[place]]).strip()
                        assert sentence[number].startswith(piece.rstrip("�"))
                opened += [number for number in numbers if number >= 0]
        assert opened == list(range(len(sentence)))
