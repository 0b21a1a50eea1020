"""The task of PEFT's method comparison: learn from MetaMathQA, answer GSM8K, and be read as that benchmark reads.

Everything here is a fact of method_comparison/MetaMathQA in huggingface/peft (data.py, utils.py and run.py of August 2026),
written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from propulsion_tools.tasks.data_files import read_folder
from propulsion_tools.tasks.other_text import first_texts

METAMATH, GSM8K, WIKI = "meta-math/MetaMathQA", "openai/gsm8k", "HuggingFaceFW/finewiki"
LONGEST = 1300
"""Characters of a training row, its query and response with a space between; longer ones are left out."""
VALIDATION_ROWS = 50
BATCHES_OF_A_BUCKET = 20
IGNORED = -100
MARKS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")
"""What stands before an answer. The first of these that a text holds is looked for, and there the last time."""


@dataclass(frozen=True)
class Rows:
    """What is trained on, and what is asked: ``query`` and ``response`` of each row."""

    train: Dataset
    validation: Dataset
    test: Dataset


def load_rows(data_dir: Path | None = None) -> Rows:
    """MetaMathQA without its longest rows, 50 training rows of GSM8K, and its test split.

    Args:
        data_dir: A folder with the folders MetaMathQA (train) and gsm8k (train and test); None: the hub.
    """
    if data_dir is None:
        metamath, gsm8k = load_dataset(METAMATH), load_dataset(GSM8K, "main")
    else:
        folders = (read_folder(str(data_dir / name)).tables for name in ("MetaMathQA", "gsm8k"))
        metamath, gsm8k = ({split: Dataset.from_dict(rows) for split, rows in tables.items()} for tables in folders)
    train = metamath["train"].select_columns(["query", "response"])
    lengths = [
        len(query) + 1 + len(response) for query, response in zip(train["query"], train["response"], strict=True)
    ]
    asked = {
        split: gsm8k[split].rename_columns({"question": "query", "answer": "response"}) for split in ("train", "test")
    }
    return Rows(
        train.select([row for row, length in enumerate(lengths) if length <= LONGEST]),
        asked["train"].select(validation_rows(len(asked["train"]))),
        asked["test"],
    )


def validation_rows(count: int) -> list[int]:
    """Which of so many rows are asked while training: NumPy's old generator, seed 0, shuffles them."""
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)
    return order[:VALIDATION_ROWS].tolist()


def wiki_texts(source: str = WIKI, most: int = 100) -> list[str]:
    """The texts that forgetting is measured on: the first 100 of finewiki, or of a file of one's own."""
    return first_texts(source, most)


def encode(rows: Dataset, tokenizer: Any, template: str, longest: int, answered: bool) -> list[list[int]]:
    """Each row as token ids: the prompt, with the response right behind it where it is answered, cut off at the end."""
    texts = [
        template.format(query=row["query"]) + (row["response"] if answered else "")
        for row in rows.select_columns(["query", "response"])
    ]
    return [
        ids[:longest]
        for start in range(0, len(texts), 1000)
        for ids in tokenizer(texts[start : start + 1000]).input_ids
    ]


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """The rows of each batch: in the order of the data, but longest first within every 20 batches."""
    size, order = batch_size * BATCHES_OF_A_BUCKET, []
    for start in range(0, len(lengths), size):
        longest_first = torch.tensor(lengths[start : start + size]).argsort(descending=True)
        order += [start + place for place in longest_first.tolist()]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def collate(rows: Sequence[Sequence[int]], end: int) -> dict[str, Tensor]:
    """A batch to train on, padded on the right by the end of a text.

    Every token counts, those of the prompt too, and the end behind each row but the longest.
    """
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=end)
    places = torch.arange(ids.shape[1])
    labels = ids.masked_fill(places > lengths, IGNORED)
    return {"input_ids": ids, "attention_mask": (places < lengths).long(), "labels": labels}


def generated(
    model: nn.Module, tokenizer: Any, prompts: Sequence[list[int]], batch_size: int, settings: Mapping[str, Any]
) -> list[str]:
    """Each prompt with what the model writes behind it.

    How it is written, greedily or drawn, is up to the generation_config of the checkpoint: the benchmark sets lengths alone.

    Args:
        model: In evaluation mode.
        tokenizer: Pads on the left here.
        prompts: Token ids.
        batch_size: How many of them at once.
        settings: Of `GenerationConfig`; where ``max_length`` and ``max_new_tokens`` are both given, the shorter counts.
    """
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        part = {"input_ids": list(prompts[start : start + batch_size])}
        batch = tokenizer.pad(part, return_tensors="pt", padding_side="left").to(model.device)
        config = generation_config(settings, batch["input_ids"].shape[1], tokenizer.pad_token_id)
        with torch.inference_mode():
            outputs = model.generate(**batch, generation_config=config)
        texts += tokenizer.batch_decode(outputs, skip_special_tokens=True)
    return texts


def generation_config(settings: Mapping[str, Any], prompt: int, pad: int) -> GenerationConfig:
    """Settings for prompts of so many tokens."""
    given = {"pad_token_id": pad, **{name: value for name, value in settings.items() if value is not None}}
    if "max_length" in given and "max_new_tokens" in given:
        given["max_length"] = min(given["max_length"], prompt + given.pop("max_new_tokens"))
    return GenerationConfig(**given)


def accuracy(texts: Sequence[str], responses: Sequence[str]) -> float:
    """The share of texts that answer as the response does; as numbers where both are numbers.

    Raises:
        ValueError: A response has no answer.
    """
    right = 0
    for text, response in zip(texts, responses, strict=True):
        wanted = answer(response)
        if wanted is None:
            raise ValueError(f"This response has no answer: {response!r}.")
        right += _value(answer(text)) == _value(wanted)
    return right / len(responses)


def answer(text: str) -> str | None:
    """What a text answers; None if nothing in it says so."""
    text = text.strip().rstrip(".!?")
    mark = next((mark for mark in MARKS if mark in text), None)
    if mark is None:
        return None
    line = text.rpartition(mark)[2].strip().split("\n", 1)[0]
    return line.strip(" .!?$%")


def _value(said: str | None) -> float | str | None:
    """The number that is said, which may be a fraction; else the words."""
    if said is None:
        return None
    number = _fraction(said)
    return said if number is None else float(number)


def _fraction(said: str) -> Decimal | None:
    try:
        parts = [Decimal(part.strip()) for part in said.split("/")]
        return parts[0] if len(parts) == 1 else parts[0] / parts[1] if len(parts) == 2 else None
    except ArithmeticError:  # no number, or a division by 0
        return None
