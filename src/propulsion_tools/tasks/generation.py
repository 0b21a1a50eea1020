"""Completions that are written: what a model generates is read and scored row by row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from propulsion_tools.tasks.base import EVAL, Batch, Setup
from propulsion_tools.tasks.completion import Completion
from propulsion_tools.tasks.majority import mean_scores, most_frequent
from propulsion_tools.tasks.prompts import Cutter
from propulsion_tools.tasks.row_conversion import Row
from propulsion_tools.tasks.text_metrics import MeanScores

if TYPE_CHECKING:
    from datasets import Dataset

PROMPT, PROMPT_MASK = f"{EVAL}input_ids", f"{EVAL}attention_mask"


@dataclass(frozen=True)
class Generation(Completion):
    """A text and what is to be written for it; columns as in `Completion`, and ``reference`` to score with."""

    @abstractmethod
    def score(self, text: str, row: Row) -> dict[str, float]:
        """How good a generated text is for a row of the split."""

    def read_answer(self, text: str) -> dict[str, Any]:
        """What is read out of a generated text beside the text itself."""
        return {}

    def for_answer(self, row: Row, cutter: Cutter) -> dict[str, Any]:
        """The prompt that a decoder continues; an encoder-decoder reads the same as for its loss."""
        if cutter.setup.config.is_encoder_decoder:
            return {}
        prompt = cutter.prompt(row["text"])
        return {PROMPT: prompt["input_ids"], PROMPT_MASK: prompt["attention_mask"]}

    def answer(self, model: Any, batch: Batch, setup: Setup, outputs: Any = None) -> Any:
        """The token ids that are generated, (batch, tokens)."""
        prompt = batch.get(PROMPT, batch["input_ids"])
        tokens = generate(model, prompt, batch.get(PROMPT_MASK, batch["attention_mask"]), setup)
        return tokens if setup.config.is_encoder_decoder else tokens[:, prompt.shape[1] :]

    def metrics(self, rows: Dataset, setup: Setup) -> MeanScores:
        """A fresh accumulator of the mean of `score`."""

        def score(answers: Any, index: Sequence[int]) -> list[dict[str, float]]:
            return [self.score(text, rows[row]) for text, row in zip(texts_of(answers, setup), index, strict=True)]

        return MeanScores(score)

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """The scores of the most frequent answer in the words of its first row, where several rows have it."""
        references = rows["reference"][:]
        answer = most_frequent(references)
        text = rows[references.index(answer)]["target"]
        return mean_scores(self.score(text, row) for row in rows) if references.count(answer) > 1 else {}

    def decode(self, answers: Any, index: Sequence[int], rows: Dataset, setup: Setup) -> list[dict[str, Any]]:
        """Answers in words.

        Returns:
            ``text`` (as generated) per row, and beside it what `read_answer` finds in it.
        """
        return [{"text": text, **self.read_answer(text)} for text in texts_of(answers, setup)]


def generate(model: Any, input_ids: Any, attention_mask: Any, setup: Setup) -> Any:
    """Greedy or beam search, as the lengths say, to the end of the text or `max_new_tokens`."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = {*(ends if isinstance(ends, list) else [ends]), setup.tokenizer.eos_token_id} - {None}
    return model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_new_tokens=setup.lengths.max_new_tokens,
        num_beams=setup.lengths.num_beams,
        do_sample=False,
        pad_token_id=setup.tokenizer.pad_token_id,
        eos_token_id=sorted(ends) or None,
    )


def texts_of(answers: Any, setup: Setup) -> list[str]:
    """Generated token ids as texts, without special tokens; processes pad theirs with −100."""
    tokens = np.asarray(answers)
    tokens = np.where(tokens < 0, setup.tokenizer.pad_token_id, tokens)
    return [text.strip() for text in setup.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
