"""A folder of split files, and a tokenizer made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(train=rows, dev=rows)`` writes JSON lines and returns the folder."""

    def write(**splits: list[dict[str, Any]]) -> str:
        for split, rows in splits.items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return str(tmp_path)

    return write


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One token per word, with a mark between the texts of a pair."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[PAD]", "[SEP]", *(f"w{index}" for index in range(20))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]")


def rows_of(count: int, **more: Any) -> list[dict[str, Any]]:
    """Rows with two classes and distinct texts."""
    return [{"sentence": f"w{row % 20} number {row}", "label": row % 2, **more} for row in range(count)]
