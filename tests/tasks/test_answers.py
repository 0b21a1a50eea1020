"""Answers of every form become texts at their places, and one that is not in its context is told apart."""

from __future__ import annotations

from typing import Any

import pytest

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.answers import standard_answers

CONTEXT = "In May it rains; in May 1889 it did not."
MAY = {"text": ["May"], "answer_start": [3]}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("May", MAY),
        (["May"], MAY),
        ({"text": "May"}, MAY),
        ({"text": ["May"], "answer_start": [3]}, MAY),
        ([{"text": "May", "answer_start": 20}], {"text": ["May"], "answer_start": [20]}),
        ({"text": ["May"], "answer_start": [7]}, MAY),
        ({"text": ["May"], "answer_start": [-1]}, MAY),
        ({"text": ["May", "June"], "answer_start": [3, 3]}, MAY),
        ({"text": ["May", "rains"]}, {"text": ["May", "rains"], "answer_start": [3, 10]}),
        ({"text": [], "answer_start": []}, {"text": [], "answer_start": []}),
        (None, {"text": [], "answer_start": []}),
        ("", {"text": [], "answer_start": []}),
        ([], {"text": [], "answer_start": []}),
        ("June", None),
        (["June", "May"], None),
    ],
)
def test_every_form_becomes_texts_at_their_places(value: Any, wanted: Any) -> None:
    assert standard_answers(value, CONTEXT) == wanted


@pytest.mark.parametrize("value", [3, 0.5, [3], {"text": [3]}])
def test_another_form_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="the answer"):
        standard_answers(value, CONTEXT)
