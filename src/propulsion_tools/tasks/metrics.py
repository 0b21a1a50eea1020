"""Scores that are streamed: what is kept of a batch is its answers, never its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from propulsion_tools.errors import NotFiniteError, check_name, require

Score = Callable[[np.ndarray, np.ndarray], float]


class StreamedMetrics:
    """Accumulates answers batch by batch, as ``Trainer`` calls it under ``batch_eval_metrics=True``.

    Args:
        scores: Functions of (labels, answers) by the name of the score.
        answer: From logits of shape (batch, num_labels) to answers of shape (batch,).

    Attributes:
        scored: ``labels`` and ``answers``, each of shape (rows,), of what was scored last.
    """

    def __init__(self, scores: Mapping[str, Score], answer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.scores = scores
        self.answer = answer
        self.scored: dict[str, np.ndarray] = {}
        self._answers: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, and score and forget all of them with the last.

        Args:
            prediction: An ``EvalPrediction``: ``predictions`` are logits, or a tuple that starts with them.
            compute_result: Whether this batch is the last.

        Returns:
            Score by name; nothing before the last batch.

        Raises:
            NotFiniteError: The model's output is not finite.
        """
        logits = prediction.predictions
        logits = to_numpy(logits[0] if isinstance(logits, tuple | list) else logits)
        if not np.isfinite(logits).all():
            self._clear()
            raise NotFiniteError("The model's output is not finite: nothing can be scored. Lower the learning rate.")
        self._answers.append(self.answer(logits))
        self._labels.append(to_numpy(prediction.label_ids).reshape(-1))
        if not compute_result:
            return {}
        self.scored = {"labels": np.concatenate(self._labels), "answers": np.concatenate(self._answers)}
        self._clear()
        return {name: float(score(*self.scored.values())) for name, score in self.scores.items()}

    def _clear(self) -> None:
        self._answers, self._labels = [], []


def streamed(names: Sequence[str], regression: bool = False) -> StreamedMetrics:
    """The scores of these names, from scikit-learn and scipy.

    Args:
        names: Of accuracy, f1 (of class 1), f1_macro, mcc, pearson, spearman.
        regression: Whether the answer is the number itself rather than the class with the largest logit.

    Raises:
        UnknownNameError: There is no such score; names the near misses.
        MissingExtraError: scikit-learn or scipy is not installed.
    """
    sklearn, scipy = require("sklearn.metrics", "train"), require("scipy.stats", "train")
    known: dict[str, Score] = {
        "accuracy": sklearn.accuracy_score,
        "f1": partial(sklearn.f1_score, average="binary", zero_division=0),
        "f1_macro": partial(sklearn.f1_score, average="macro", zero_division=0),
        "mcc": partial(_matthews, sklearn.matthews_corrcoef),
        "pearson": partial(_correlation, scipy.pearsonr),
        "spearman": partial(_correlation, scipy.spearmanr),
    }
    for name in names:
        check_name("score", name, known)
    return StreamedMetrics({name: known[name] for name in names}, _number if regression else _largest)


def to_numpy(values: Any) -> np.ndarray:
    """An array from an array, a list or a tensor of any device and dtype."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy() if values.is_floating_point() else values.detach().cpu().numpy()
    return np.asarray(values)


def _largest(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(axis=-1)


def _number(logits: np.ndarray) -> np.ndarray:
    return logits.reshape(-1).astype(np.float64)


def _matthews(function: Callable[..., Any], labels: np.ndarray, answers: np.ndarray) -> float:
    """Matthews' correlation, 0 where there is one class and it is undefined: scikit-learn gives 0, and warns."""
    return float(function(labels, answers)) if len(np.union1d(labels, answers)) > 1 else 0.0


def _correlation(function: Callable[..., Any], labels: np.ndarray, answers: np.ndarray) -> float:
    """A correlation, 0 where one side is constant and it is undefined."""
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(answers) == 0:
        return 0.0
    return float(function(labels, answers).statistic)
