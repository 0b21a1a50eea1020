"""Laws of the part that is set aside: nothing is lost, nothing is twice, and the validation split is out of reach."""

from __future__ import annotations

import pytest
from datasets import Dataset

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import TaskData
from propulsion_tools.tasks.selection import set_aside


def data(count: int, repeats: int = 1) -> TaskData:
    texts = [f"text {row}" for row in range(count)] * repeats
    train = Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(len(texts))]})
    return TaskData({"train": train, "validation": train, "test": train}, ("a", "b"), ("read",))


def test_both_parts_together_are_the_training_rows_in_their_order() -> None:
    whole = data(400)
    parts = set_aside(whole, 0.2)
    assert list(parts.splits) == ["train", "selection"]
    rows = [row for split in parts.splits.values() for row in split]
    assert sorted(rows, key=lambda row: int(row["text"].split()[1])) == list(whole.splits["train"])
    assert 0.1 < len(parts.splits["selection"]) / 400 < 0.3
    assert parts.notes[0] == "read"
    assert "set aside" in parts.notes[-1]


def test_equal_inputs_stay_on_one_side_whatever_their_labels() -> None:
    parts = set_aside(data(101, repeats=3), 0.3).splits
    assert not set(parts["train"]["text"]) & set(parts["selection"]["text"])


def test_questions_about_one_context_stay_on_one_side() -> None:
    questions = {
        "question": [f"what {row}" for row in range(300)],
        "context": [f"text {row % 60}" for row in range(300)],
    }
    parts = set_aside(TaskData({"train": Dataset.from_dict(questions)}, None, ()), 0.3).splits
    assert len(parts["train"]) + len(parts["selection"]) == 300
    assert not set(parts["train"]["context"]) & set(parts["selection"]["context"])


def test_a_limit_keeps_fewer_rows_to_score_and_the_same_to_train_on() -> None:
    whole, few = (set_aside(data(400), 0.2, most).splits for most in (None, 20))
    assert list(few["train"]) == list(whole["train"])
    kept = few["selection"]["text"]
    assert len(kept) == 20
    assert [text for text in whole["selection"]["text"] if text in set(kept)] == list(kept)
    assert list(set_aside(data(400), 0.2, 400).splits["selection"]) == list(whole["selection"])


def test_too_few_rows_and_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="1 training rows are too few"):
        set_aside(data(1), 0.1)
    with pytest.raises(DataError, match="no training split"):
        set_aside(TaskData({"test": data(3).splits["train"]}, None, ()), 0.1)
