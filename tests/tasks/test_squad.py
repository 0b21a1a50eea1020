"""SQuAD's scores against values computed by hand, and the threshold against every other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propulsion_tools.tasks.squad import best_threshold, exact_match, f1, normalized

BRONCOS = ["Denver Broncos", "Denver Broncos", "Denver Broncos"]
STADIUM = ["Santa Clara, California", "Levi's Stadium", "Levi's Stadium in the San Francisco Bay Area"]


def test_case_punctuation_articles_and_space_do_not_count() -> None:
    assert normalized("  The  Eiffel-Tower,\tan  (iron) A-frame. ") == "eiffeltower iron aframe"
    assert normalized("Theory of a theatre") == "theory of theatre"
    assert normalized("the") == ""


@pytest.mark.parametrize(
    ("answer", "references", "exact", "overlap"),
    [
        ("the Denver Broncos!", BRONCOS, 1.0, 1.0),
        ("Broncos", BRONCOS, 0.0, 2 / 3),  # precision 1, recall 1/2
        ("Carolina Panthers", BRONCOS, 0.0, 0.0),
        ("Levis Stadium", STADIUM, 1.0, 1.0),
        ("Levi's Stadium in San Francisco", STADIUM, 0.0, 2 * 5 / (5 + 7)),  # "the" is gone on both sides
        ("San San San", ["San Jose"], 0.0, 2 * 1 / (3 + 2)),  # a word counts as often as both have it
        ("", [], 1.0, 1.0),
        ("something", [], 0.0, 0.0),
        ("", ["something"], 0.0, 0.0),
        ("the", ["an"], 1.0, 1.0),
    ],
)
def test_scores_are_those_computed_by_hand(answer: str, references: list[str], exact: float, overlap: float) -> None:
    assert exact_match(answer, references) == exact
    assert f1(answer, references) == pytest.approx(overlap)


ROWS = st.tuples(st.floats(0, 1), st.integers(-3, 3).map(float), st.booleans())


@given(st.lists(ROWS, min_size=1, max_size=12))
def test_no_threshold_is_better_than_the_best(rows: list[tuple[float, float, bool]]) -> None:
    scores, margins, answerable = (list(column) for column in zip(*rows, strict=True))

    def mean(threshold: float) -> float:
        points = [
            score * has if margin <= threshold else float(not has)
            for score, margin, has in zip(scores, margins, answerable, strict=True)
        ]
        return float(np.mean(points))

    best, threshold = best_threshold(scores, margins, answerable)
    assert best == pytest.approx(mean(threshold))
    assert best >= max(mean(other) for other in (-4, *range(-3, 4), 4)) - 1e-9


def test_the_threshold_separates_what_has_an_answer() -> None:
    assert best_threshold([1.0, 0.5, 1.0], [-2.0, 1.0, 3.0], [True, True, False]) == (pytest.approx(2.5 / 3), 1.0)
    assert best_threshold([1.0, 1.0], [0.0, 1.0], [False, False])[0] == 1.0
