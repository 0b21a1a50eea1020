"""Tags are the same ids in every split, and what is no tag is refused with its row."""

from __future__ import annotations

from typing import Any

import pytest

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.tags import check_lengths, tag_ids, tag_names

NAMES = ("O", "B-X", "I-X")


@pytest.mark.parametrize(
    ("rows", "known", "names"),
    [
        ([["O", "B-X"]], None, NAMES),
        ([["O", " I-X"], ["B-X", "O"]], None, NAMES),
        ([["S-X", "O"]], None, ("O", "B-X", "I-X", "S-X")),
        ([["B-Y", "I-X"]], None, ("O", "B-X", "I-X", "B-Y", "I-Y")),
        ([[0, 2]], NAMES, NAMES),
        ([["0", "2"]], NAMES, NAMES),
        ([[0.0, 2.0]], NAMES, NAMES),
        ([["O", "B-X"]], ("B-X", "I-X", "O"), ("B-X", "I-X", "O")),
        ([["O", "B-Z"]], NAMES, ("O", "B-Z", "I-Z")),
    ],
)
def test_names_are_known_or_made_from_the_types(rows: Any, known: Any, names: tuple[str, ...]) -> None:
    assert tag_names(rows, known) == names


def test_names_and_numbers_give_the_same_ids() -> None:
    assert tag_ids([["O", "I-X "], ["B-X"]], NAMES, "train") == [[0, 2], [1]]
    assert tag_ids([[0, 2.0], ["1"]], NAMES, "train") == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("rows", "known", "said"),
    [
        ([[0, 1]], None, "nothing says what they are called"),
        ([["O", "NN"]], None, "'NN' is not O, B-type or I-type"),
        ([["O", "O"]], None, "there is nothing to learn"),
        ([[0.5, 1]], NAMES, "0.5 is neither a name nor a whole number"),
        ([[None]], NAMES, "None is neither"),
        ([["O", 1]], NAMES, "1 is neither a name"),
    ],
)
def test_training_tags_that_cannot_be_are_refused(rows: Any, known: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        tag_names(rows, known)


@pytest.mark.parametrize("tag", [3, -1, "3", 0.5, "B-Y", "", None, True, float("nan"), float("inf")])
def test_a_tag_that_is_unknown_or_out_of_range_is_refused(tag: Any) -> None:
    with pytest.raises(DataError, match=r"Row 2 of the validation split has the tag .*: the tags are O, B-X, I-X, or"):
        tag_ids([["O"], ["O", tag]], NAMES, "validation")


@pytest.mark.parametrize(
    ("words", "tags", "said"),
    [
        (["a", "b"], ["O"], "2 words and 1 tags"),
        (["a"], None, "1 words and no list of tags"),
        ("a b", ["O"], "not a list of words"),
        ([], [], "not a list of words"),
        (["a", " "], ["O", "O"], "not a list of words"),
        (["a", 1], ["O", "O"], "not a list of words"),
    ],
)
def test_words_without_a_tag_each_are_refused(words: Any, tags: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"Row 2 of the train split.*{said}"):
        check_lengths([["a"], words], [["O"], tags], "train")
