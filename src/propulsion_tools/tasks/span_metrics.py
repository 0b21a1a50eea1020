"""Exact match and F1 of spans, streamed: what is kept of a window is one span and two scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from propulsion_tools.tasks.metrics import to_numpy
from propulsion_tools.tasks.squad import best_threshold, exact_match, f1


@dataclass(frozen=True)
class Span:
    """The best span of a context over all of its windows.

    Args:
        start: Its first character.
        end: Behind its last character.
        score: Of its first and its last token, added.
        null: That of "no answer", in the window where it is least.
    """

    start: int = 0
    end: int = 0
    score: float = -np.inf
    null: float = np.inf

    @property
    def margin(self) -> float:
        """By how much "no answer" is better."""
        return self.null - self.score


def gather_spans(
    chars: Any, scores: Any, index: Iterable[int], best_so_far: dict[int, Span] | None = None
) -> dict[int, Span]:
    """The best spans of contexts from those of their windows.

    Args:
        chars: First character and character behind the last, (windows, 2).
        scores: Of the span and of "no answer", (windows, 2).
        index: The row that each window is from.
        best_so_far: From earlier windows; changed in place.
    """
    best_so_far = {} if best_so_far is None else best_so_far
    for row, (start, end), (score, null) in zip(index, to_numpy(chars), to_numpy(scores), strict=True):
        best = best_so_far.get(int(row), Span())
        place = (int(start), int(end), float(score)) if score > best.score else (best.start, best.end, best.score)
        best_so_far[int(row)] = Span(*place, min(best.null, float(null)))
    return best_so_far


def span_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The means of exact match and F1.

    Args:
        texts: The answer to each question; empty: that there is none.
        references: The right ones of each; none where there is none.
    """
    pairs = list(zip(texts, references, strict=True))
    return {
        "exact_match": float(np.mean([exact_match(text, right) for text, right in pairs])),
        "f1": float(np.mean([f1(text, right) for text, right in pairs])),
    }


class SpanMetrics:
    """Accumulates windows batch by batch, as ``Trainer`` calls it under ``batch_eval_metrics=True``.

    Args:
        contexts: Of the split's rows.
        answers: Of the split's rows; ``text`` is empty where there is none.
        threshold: A question is left without an answer if "no answer" is better than the best span by more than this;
            None: a question has always an answer.
    """

    scored: Mapping[str, np.ndarray] = MappingProxyType({})  # nothing is kept row by row

    def __init__(
        self, contexts: Sequence[str], answers: Sequence[Mapping[str, list[Any]]], threshold: float | None
    ) -> None:
        self.contexts = contexts
        self.references = [answer["text"] for answer in answers]
        self.threshold = threshold
        self._found: dict[int, Span] = {}

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, and score and forget all of them with the last.

        Args:
            prediction: An ``EvalPrediction`` of what `best_spans` gives, its ``label_ids`` the rows of the windows.
            compute_result: Whether this batch is the last.

        Returns:
            ``exact_match`` and ``f1``, from 0 to 1. Where a question may be without an answer, at the threshold, and
            beside them the best at any threshold (``best_exact_match``, ``best_f1``, ``best_f1_threshold``), as in
            SQuAD v2.0.
        """
        chars, scores = prediction.predictions
        gather_spans(chars, scores, to_numpy(prediction.label_ids), self._found)
        if not compute_result:
            return {}
        spans = [self._found.get(row, Span()) for row in range(len(self.contexts))]
        self._found = {}
        texts = [context[span.start : span.end] for context, span in zip(self.contexts, spans, strict=True)]
        if self.threshold is None:
            return span_scores(texts, self.references)
        answered = [text if span.margin <= self.threshold else "" for text, span in zip(texts, spans, strict=True)]
        return {**span_scores(answered, self.references), **self._best(texts, [span.margin for span in spans])}

    def _best(self, texts: list[str], margins: list[float]) -> dict[str, float]:
        answerable = [bool(references) for references in self.references]
        exact = [exact_match(text, references) for text, references in zip(texts, self.references, strict=True)]
        overlap = [f1(text, references) for text, references in zip(texts, self.references, strict=True)]
        best_f1, threshold = best_threshold(overlap, margins, answerable)
        return {
            "best_exact_match": best_threshold(exact, margins, answerable)[0],
            "best_f1": best_f1,
            "best_f1_threshold": threshold,
        }
