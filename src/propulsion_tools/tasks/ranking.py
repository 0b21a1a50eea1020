"""Options by their likelihoods: the model writes nothing, the likeliest option is its answer.

Two scores: ``accuracy`` compares log p(option | question), ``accuracy_norm`` the same per character, for a long option
is less likely than a short one whatever it says.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import EVAL, Batch, Lengths, Setup, accepted_by
from propulsion_tools.tasks.completion import Completion, completion_only, token_losses
from propulsion_tools.tasks.majority import most_frequent
from propulsion_tools.tasks.multiple_choice import Choice
from propulsion_tools.tasks.padding import Collate
from propulsion_tools.tasks.prompts import Cutter
from propulsion_tools.tasks.row_conversion import Row
from propulsion_tools.tasks.text_metrics import MeanScores

if TYPE_CHECKING:
    from datasets import Dataset

CHOICES = f"{EVAL}choices"
OWNERS = f"{EVAL}choice_owners"
IMPOSSIBLE = -1e9  # of an option that a question does not have


@dataclass(frozen=True)
class Ranking(Completion):
    """A question and its options.

    The columns of a split are ``text`` (the question), ``choices``, ``target`` (the right one) and ``label`` (its
    number, from 0).
    """

    instruction: str = "Question: {text}\nAnswer:"
    framed: bool = False
    ends: bool = False
    cuts: bool = True
    lengths: Lengths = Lengths(max_length=256, max_target_length=128, max_new_tokens=1)

    @abstractmethod
    def choice(self, row: Row) -> Choice:
        """The question and its options from a raw row; raises DataError, without the place, where there are none."""

    def from_line(self, line: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """An instruction that lists the options."""
        return {"instruction": line}

    def unlabelled(
        self, rows: Sequence[Mapping[str, Any]], text_column: str | None = None, text_pair_column: str | None = None
    ) -> Dataset:
        """Rows with the columns ``text`` and ``choices``.

        Raises:
            DataError: There are no rows, one has no options, or a column was named: a question is in several.
        """
        if text_column is not None:
            raise DataError(f"text_column says nothing to the task {self.name}, whose columns have set names: drop it.")
        return super().unlabelled(rows)

    def unanswered(self, row: Row) -> dict[str, Any]:
        """The question and its options."""
        choice = self.choice(row)
        return {"text": choice.question, "choices": list(choice.options)}

    def convert(self, row: Row) -> dict[str, Any]:
        """The question, its options and the right one."""
        return self.columns(self.choice(row))

    def columns(self, choice: Choice) -> dict[str, Any]:
        """The columns of a split; raises DataError where the right option is not known."""
        label = choice.known_label()
        return {
            "text": choice.question,
            "choices": list(choice.options),
            "target": _behind(choice.options[label]),
            "label": label,
        }

    def for_answer(self, row: Row, cutter: Cutter) -> dict[str, Any]:
        """The question with each of its options, as the model would be trained on it."""
        return {CHOICES: [cutter.example(row["text"], _behind(option)) for option in row["choices"]]}

    def collator(self, setup: Setup) -> Collate:
        """Pads questions and, in a batch of their own, all their options."""
        inner = super().collator(setup)

        def collate(rows: list[dict[str, Any]]) -> Batch:
            batch = dict(inner([{name: row[name] for name in row if name != CHOICES} for row in rows]))
            if CHOICES in rows[0]:
                options = [option for row in rows for option in row[CHOICES]]
                batch |= {f"{CHOICES}_{name}": values for name, values in inner(options).items()}
                batch[OWNERS] = torch.tensor([place for place, row in enumerate(rows) for _ in row[CHOICES]])
            return batch

        return collate

    def answer(self, model: Any, batch: Batch, setup: Setup, outputs: Any = None) -> Tensor:
        """Log-likelihoods of the options, (batch, most options), as many options at a time as the batch has rows."""
        options = {name.removeprefix(f"{CHOICES}_"): batch[name] for name in batch if name.startswith(f"{CHOICES}_")}
        options = {name: values for name, values in options.items() if name in accepted_by(model)}
        owners, scores = batch[OWNERS], []
        for start in range(0, len(owners), len(batch["input_ids"])):
            part = {name: values[start : start + len(batch["input_ids"])] for name, values in options.items()}
            arguments = completion_only(model, part)
            losses = token_losses(model(**arguments).logits, arguments["labels"], setup.config)
            scores.append(-losses.sum(dim=1))
        return _by_owner(torch.cat(scores), owners)

    def metrics(self, rows: Dataset, setup: Setup) -> MeanScores:
        """A fresh accumulator of both accuracies."""

        def score(answers: Any, index: Sequence[int]) -> list[dict[str, float]]:
            return [_score(likelihoods, rows[row]) for likelihoods, row in zip(answers, index, strict=True)]

        return MeanScores(score)

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """The accuracies of the option that is right most often, by its number."""
        labels = rows["label"][:]
        return dict.fromkeys(("accuracy", "accuracy_norm"), labels.count(most_frequent(labels)) / len(labels))

    def decode(self, answers: Any, index: Sequence[int], rows: Dataset, setup: Setup) -> list[dict[str, Any]]:
        """Answers in words.

        Returns:
            Per row the likeliest option as ``answer``, its number as ``label``, and all ``log_likelihoods``.
        """
        decoded = []
        for values, options in zip(answers, rows["choices"], strict=True):
            likelihoods = [float(value) for value in values[: len(options)]]
            best = int(np.argmax(likelihoods))
            decoded.append({"answer": options[best], "label": best, "log_likelihoods": likelihoods})
        return decoded


def _behind(option: str) -> str:
    return f" {option}"


def _by_owner(values: Tensor, owners: Tensor) -> Tensor:
    """Values (options,) of rows in ascending order as (rows, most options)."""
    counts = torch.bincount(owners)
    places = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    table = values.new_full((len(counts), int(counts.max())), IMPOSSIBLE)
    table[owners, places] = values
    return table


def _score(likelihoods: np.ndarray, row: Row) -> dict[str, float]:
    likelihoods = likelihoods[: len(row["choices"])]
    lengths = np.array([len(option) for option in row["choices"]])
    return {
        "accuracy": float(likelihoods.argmax() == row["label"]),
        "accuracy_norm": float((likelihoods / lengths).argmax() == row["label"]),
    }
