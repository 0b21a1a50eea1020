"""The scores of SQuAD (Rajpurkar et al., 2016 and 2018): exact match and F1 between normalised answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """The answer in lower case, without punctuation and articles, its words separated by single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references after normalisation, 0 otherwise; no reference: if it is empty."""
    return float(normalized(answer) in {normalized(reference) for reference in references or ("",)})


def f1(answer: str, references: Sequence[str]) -> float:
    """The largest F1 between the words of the answer and those of a reference; no reference: 1 if it is empty."""
    return max(_overlap(normalized(answer).split(), normalized(reference).split()) for reference in references or ("",))


def _overlap(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference))


def best_threshold(
    scores: Sequence[float], margins: Sequence[float], answerable: Sequence[bool]
) -> tuple[float, float]:
    """The mean score at the threshold that suits these rows best, and that threshold.

    A row is answered if the margin of "no answer" over its best span is at most the threshold.

    Args:
        scores: Of each row's best span.
        margins: Score of "no answer" minus that of the best span.
        answerable: Whether the row has an answer; otherwise only leaving it unanswered counts.
    """
    order = np.argsort(margins, kind="stable")
    sorted_margins, has_answer = np.asarray(margins, float)[order], np.asarray(answerable, bool)[order]
    gained = np.where(has_answer, np.asarray(scores, float)[order], -1.0)
    totals = np.concatenate(([0.0], np.cumsum(gained))) + (~has_answer).sum()
    ends = np.concatenate((sorted_margins[:-1] < sorted_margins[1:], [True]))  # equal margins fall on one side together
    allowed = np.flatnonzero(np.concatenate(([True], ends)))
    best = int(allowed[np.argmax(totals[allowed])])
    threshold = sorted_margins[best - 1] if best else np.nextafter(sorted_margins[0], -np.inf)
    return float(totals[best] / len(order)), float(threshold)
