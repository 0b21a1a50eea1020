"""Scores of generated texts, streamed: what is kept of a batch is one number for each row and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from propulsion_tools.tasks.metrics import to_numpy


class MeanScores:
    """The mean over the rows of scores that each row has for itself.

    Args:
        score: From the answers of a batch and the indices of their rows to scores by name, for each row.

    Attributes:
        scored: By name of the score, one number for each row that was scored last; where the score is an accuracy,
            also as ``answers`` beside ``labels`` that are 1, so that runs can be compared row by row.
    """

    def __init__(self, score: Callable[[Any, Sequence[int]], list[dict[str, float]]]) -> None:
        self.score = score
        self.scored: dict[str, np.ndarray] = {}
        self._found: list[dict[str, float]] = []

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, and average and forget all of them with the last.

        Args:
            prediction: An ``EvalPrediction``: ``predictions`` are answers, ``label_ids`` the indices of their rows.
            compute_result: Whether this batch is the last.
        """
        answers = prediction.predictions
        answers = tuple(map(to_numpy, answers)) if isinstance(answers, tuple) else to_numpy(answers)
        self._found += self.score(answers, to_numpy(prediction.label_ids).tolist())
        if not compute_result:
            return {}
        self.scored = {name: np.array([row[name] for row in self._found]) for name in self._found[0]}
        self._found = []
        means = {name: float(values.mean()) for name, values in self.scored.items()}
        if "accuracy" in self.scored:
            self.scored |= {"labels": np.ones_like(self.scored["accuracy"]), "answers": self.scored["accuracy"]}
        return means
