"""A tiny BERT with its tokenizer, and two splits of sentences that it can learn, all made here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from propulsion_tools.records import RunSpec

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "poor", "awful", "dull")
FILLER = ("the", "film", "was", "a", "really", "plot", "and", "actors", "were")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights and a word-piece tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILLER]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl with 64 rows and validation.jsonl with 32."""
    folder = tmp_path_factory.mktemp("sentences")
    draw = random.Random(0)
    for split, count in (("train", 64), ("validation", 32)):
        lines = []
        for number in range(count):
            words = [*draw.choices(FILLER, k=4), draw.choice(GOOD if number % 2 else BAD), str(number)]
            lines.append(json.dumps({"text": " ".join(words), "label": "positive" if number % 2 else "negative"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def make_spec(tiny_model: Path, data_dir: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    """Specs of tiny runs on the CPU; 8 steps unless told otherwise."""

    def make(**changes: Any) -> RunSpec:
        values: dict[str, Any] = {
            "model_name_or_path": str(tiny_model),
            "data_dir": str(data_dir),
            "output_dir": str(tmp_path / "run"),
            "max_length": 16,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "learning_rate": 5e-3,
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return RunSpec(**{**values, **changes})

    return make
