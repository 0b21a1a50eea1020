"""Causal language modelling: every token of a text, or of what follows a prompt; scored by perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import Batch, Lengths, Setup, TaskData
from propulsion_tools.tasks.completion import token_losses
from propulsion_tools.tasks.generation import Generation
from propulsion_tools.tasks.metrics import to_numpy
from propulsion_tools.tasks.mining import mine_completions
from propulsion_tools.tasks.model_kinds import CAUSAL_LM, ModelKind
from propulsion_tools.tasks.padding import NOT_SCORED
from propulsion_tools.tasks.prompts import Cutter
from propulsion_tools.tasks.row_conversion import Row, text_in

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class LanguageModelling(Generation):
    """Texts, whole or behind a prompt.

    The columns of a split are ``text`` (the prompt, empty where there is none) and ``target`` (the text). A text
    without a prompt is cut into windows of ``max_length`` tokens, each of which is a row of its own.
    """

    framed: bool = False
    kinds: tuple[ModelKind, ...] = (CAUSAL_LM,)
    cuts: bool = True
    main_metric: str = "perplexity"
    greater_is_better: bool = False
    lengths: Lengths = Lengths(max_length=256, max_new_tokens=64)

    def column_names(self, given: Mapping[str, str]) -> dict[str, str]:
        """The text, or a prompt and its completion."""
        if "label_column" not in given:
            return {"text_column": "text", "its prompt": "prompt", "its completion": "completion"}
        if "text_column" not in given:
            raise DataError("label_column names the completion of a prompt: name the prompt with --text_column too.")
        return {"text_column": "prompt", "label_column": "completion"}

    def unanswered(self, row: Row) -> dict[str, Any]:
        """What is to be continued."""
        _refuse_chat(row)
        return {"text": text_in(row, "prompt", "text")}

    def convert(self, row: Row) -> dict[str, Any]:
        """The prompt, if there is one, and the text."""
        _refuse_chat(row)
        if row.get("completion") is not None:
            return {"text": str(row.get("prompt") or ""), "target": text_in(row, "completion")}
        return {"text": "", "target": text_in(row, "text", "content", "document")}

    def score(self, text: str, row: Row) -> dict[str, float]:
        """Nothing: likelihoods are scored, see `metrics`."""
        return {}

    def examples(self, row: Row, cutter: Cutter) -> list[dict[str, Any]]:
        """The text in windows, or behind its prompt, or the prompt alone."""
        return cutter.windows(row["target"]) if row.get("target") and not row["text"] else super().examples(row, cutter)

    def answer(self, model: Any, batch: Batch, setup: Setup, outputs: Any = None) -> Any:
        """−log p of the labelled tokens and their number, (batch, 2); without labels, what is generated."""
        if "labels" not in batch:
            return super().answer(model, batch, setup)
        arguments = self.arguments(model, batch)
        outputs = model(**arguments) if outputs is None else outputs
        losses = token_losses(outputs.logits, arguments["labels"], setup.config)
        counts = (arguments["labels"][:, 1:] != NOT_SCORED).sum(dim=1)
        return torch.stack([losses.sum(dim=1), counts.to(losses.dtype)], dim=1)

    def metrics(self, rows: Dataset, setup: Setup) -> Perplexity:  # type: ignore[override]
        """A fresh accumulator of the perplexity."""
        return Perplexity()

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """Nothing: likelihoods are scored, not answers."""
        return {}

    def toy(self) -> TaskData:
        """Verses."""
        from datasets import Dataset

        texts = [
            f"the {thing} is {colour} and the {thing} is ours"
            for thing in ("sea", "sky")
            for colour in ("blue", "grey")
        ]
        rows = Dataset.from_dict({"text": ["", "", "so", "now"], "target": texts})
        return TaskData({"train": rows, "validation": rows}, None, ())


def _refuse_chat(row: Row) -> None:
    for name in ("messages", "conversations", "prompt", "completion"):
        turns = row.get(name)
        if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
            raise DataError(
                f"its {name!r} are the turns of a chat, and texts are wanted: write what the tokenizer's "
                "apply_chat_template makes of them under 'text', or under 'prompt' and 'completion'."
            )


class Perplexity:
    """exp of the mean of −log p over all labelled tokens, streamed."""

    scored: Mapping[str, np.ndarray] = MappingProxyType({})  # nothing is kept row by row

    def __init__(self) -> None:
        self._sums = np.zeros(2)

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, and score and forget all of them with the last.

        Args:
            prediction: An ``EvalPrediction``: ``predictions`` are sums and counts, (batch, 2).
            compute_result: Whether this batch is the last.
        """
        self._sums = self._sums + to_numpy(prediction.predictions).astype(np.float64).sum(axis=0)
        if not compute_result:
            return {}
        (total, count), self._sums = self._sums, np.zeros(2)
        mean = total / count
        return {"perplexity": math.exp(min(mean, 700.0)), "bits_per_token": float(mean / math.log(2))}


TASKS = (
    LanguageModelling("completions", "the rest of a docstring after its beginning", default=mine_completions),
    LanguageModelling("language-modelling", "any texts, or completions of prompts"),
)
