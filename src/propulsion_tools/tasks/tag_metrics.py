"""Accuracy and entity F1 (seqeval), streamed: what is kept of a batch is the tags of its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from propulsion_tools.errors import require
from propulsion_tools.tasks.metrics import to_numpy
from propulsion_tools.tasks.tags import OUTSIDE


def tags_of_words(tags: Any, opened: Any, index: Any) -> np.ndarray:
    """The words of a batch and their tags.

    Args:
        tags: Of each token, (windows, tokens).
        opened: The word that each token opens, negative for none, (windows, tokens).
        index: The row that each window is from.

    Returns:
        Row, word and tag of each opened word, (words, 3).
    """
    opened = to_numpy(opened)
    rows = np.broadcast_to(to_numpy(index)[:, None], opened.shape)
    return np.stack([rows, opened, to_numpy(tags)], axis=-1)[opened >= 0]


def tag_sequences(by_word: Iterable[np.ndarray], lengths: Sequence[int], names: Sequence[str]) -> list[list[str]]:
    """The names of the tags of each row's words; a word for which the tokenizer has no token is outside.

    Args:
        by_word: From `tags_of_words`.
        lengths: Words of each row.
        names: Of the tag ids.
    """
    sequences = [[OUTSIDE] * count for count in lengths]
    for part in by_word:
        for row, word, tag in part.tolist():
            sequences[row][word] = names[tag]
    return sequences


def tag_scores(truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """``accuracy`` over words, and ``precision``, ``recall`` and ``f1`` over entities, of the tags of each row."""
    seqeval = require("seqeval.metrics", "train")
    scores = {"accuracy": float(seqeval.accuracy_score(truth, answers))}
    for name in ("precision", "recall", "f1"):
        scores[name] = float(getattr(seqeval, f"{name}_score")(truth, answers, zero_division=0))
    return scores


class TagMetrics:
    """Accumulates tags batch by batch, as ``Trainer`` calls it under ``batch_eval_metrics=True``.

    Args:
        references: Tag ids of the split's rows.
        names: Of the tag ids.
    """

    scored: Mapping[str, np.ndarray] = MappingProxyType({})  # nothing is kept row by row

    def __init__(self, references: Sequence[Sequence[int]], names: Sequence[str]) -> None:
        self.references = references
        self.names = names
        self._found: list[np.ndarray] = []

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, and score and forget all of them with the last.

        Args:
            prediction: An ``EvalPrediction`` of tags and opened words, its ``label_ids`` the rows of the windows.
            compute_result: Whether this batch is the last.

        Returns:
            ``accuracy`` over words, and ``precision``, ``recall`` and ``f1`` over entities.
        """
        tags, opened = prediction.predictions
        self._found.append(tags_of_words(tags, opened, to_numpy(prediction.label_ids)))
        if not compute_result:
            return {}
        answers = tag_sequences(self._found, [len(tags) for tags in self.references], self.names)
        self._found = []
        truth = [[self.names[tag] for tag in tags] for tags in self.references]
        return tag_scores(truth, answers)
