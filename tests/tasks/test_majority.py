"""The score of always giving the most frequent answer, for every family."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from propulsion_tools.tasks import Setup, get_task, task_names

SETUP = Setup(None, None, label_names=("O", "B-THING", "I-THING"))


def majority(task: str, **columns: list[Any]) -> dict[str, float]:
    return get_task(task).majority(Dataset.from_dict(columns), SETUP)


@pytest.mark.parametrize("name", task_names())
def test_every_task_says_what_one_answer_for_all_rows_reaches(name: str) -> None:
    task = get_task(name)
    data = task.toy()
    found = task.majority(data.splits["validation"], Setup(None, None, label_names=data.label_names))
    assert all(0 <= value <= 1 for value in found.values())
    if found:
        assert task.main_metric in found


def test_the_most_frequent_class_and_the_mean() -> None:
    assert majority("qqp", label=[1, 1, 0, 1]) == {"accuracy": 0.75, "f1": pytest.approx(6 / 7)}
    assert majority("cola", label=[1, 0, 1])["mcc"] == 0
    assert majority("stsb", label=[1.0, 2.0, 5.0])["pearson"] == 0


def test_the_most_frequent_tag_finds_no_entity() -> None:
    found = majority("token-classification", tags=[[0, 0, 1], [0]])
    assert found == {"accuracy": 0.75, "precision": 0, "recall": 0, "f1": 0}


def test_leaving_every_question_without_an_answer_may_be_best() -> None:
    answers = [{"text": [], "answer_start": []}, {"text": [], "answer_start": []}, {"text": ["x"], "answer_start": [0]}]
    found = majority("squad_v2", context=["x"] * 3, answers=answers)
    assert found == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}


def test_the_most_frequent_option_is_counted_by_its_number() -> None:
    options = [["a", "b"], ["b", "a"], ["a", "b"]]
    found = majority("piqa_ranking", choices=options, label=[1, 0, 1])
    assert found == {"accuracy": pytest.approx(2 / 3), "accuracy_norm": pytest.approx(2 / 3)}


def test_the_most_frequent_number_counts_whatever_the_steps_to_it() -> None:
    columns = {"text": ["a", "b", "c"], "target": ["1 + 1 = 2", "3 - 1 = 2", "5"], "reference": ["2", "2", "5"]}
    assert majority("gsm8k", **columns) == {"accuracy": pytest.approx(2 / 3)}


def test_targets_that_are_all_different_have_no_majority() -> None:
    assert majority("xsum", text=["a", "b"], target=["one", "two"], reference=["one", "two"]) == {}
