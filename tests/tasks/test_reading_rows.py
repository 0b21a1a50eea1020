"""Rows of reasoning and of summaries, from every form that they come in, and what is said of those that are none."""

from __future__ import annotations

from typing import Any

import pytest

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import DataSource, get_task
from propulsion_tools.tasks.raw_tables import RawSplits
from tests.tasks.conftest import Write

FORMS: list[tuple[str, dict[str, Any], str, str]] = [
    ("boolq", {"question": "is it so", "passage": "It is.", "answer": True}, "true", "It is.\nis it so"),
    ("piqa", {"goal": "open a jar", "sol1": "turn it", "sol2": "look at it", "label": 0}, "solution1", "open a jar"),
    (
        "siqa",
        {"context": "Al ran.", "question": "Why?", "answerA": "late", "answerB": "sad", "answerC": "old", "label": "2"},
        "answer2",
        "Al ran. Why?",
    ),
    ("hellaswag", {"ctx": "A man", "endings": ["a", "b", "c", "d"], "label": "3"}, "ending4", "A man"),
    (
        "winogrande",
        {"sentence": "Al beat Bo since _ ran.", "option1": "Al", "option2": "Bo", "answer": "1"},
        "option1",
        "Al beat Bo since _ ran.",
    ),
    (
        "arc_easy",
        {
            "question": "What is hot?",
            "choices": {"text": ["ice", "fire", "air"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        "answer2",
        "What is hot?",
    ),
    (
        "obqa",
        {"question_stem": "Fire is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": "A"},
        "answer1",
        "Fire is",
    ),
]


@pytest.mark.parametrize(("name", "row", "word", "asked"), FORMS, ids=[form[0] for form in FORMS])
def test_both_protocols_read_the_columns_of_the_set(name: str, row: dict[str, Any], word: str, asked: str) -> None:
    written, ranked = get_task(name).convert(row), get_task(f"{name}_ranking").convert(row)
    assert (written["reference"], written["target"]) == (word, f"the correct answer is {word}")
    assert written["text"].startswith(asked)
    assert all(option in written["text"] for option in ranked["choices"]) or name == "winogrande"
    assert ranked["target"] == f" {ranked['choices'][ranked['label']]}"
    without = {key: None if key in ("answer", "label", "answerKey") else value for key, value in row.items()}
    assert get_task(name).unanswered(without) == {"text": written["text"]}
    with pytest.raises(DataError, match="its answer is not given"):
        get_task(name).convert(without)


def test_a_label_of_zero_is_a_label() -> None:
    row = {"question": "q", "choices": {"text": ["a", "b"], "label": [0, 1]}, "answerKey": 0}
    assert get_task("arc_easy_ranking").convert(row)["label"] == 0


def test_a_blank_is_filled_with_each_option() -> None:
    ranked = get_task("winogrande_ranking").convert(FORMS[4][1])
    assert (ranked["text"], ranked["choices"]) == ("Al beat Bo since", ["Al ran.", "Bo ran."])


def test_instructions_are_taken_as_they_come_and_their_options_are_found() -> None:
    instruction = "Please choose: What is hot?\n\nAnswer1: ice Answer2: fire, red\n\nAnswer format: answer1/answer2"
    row = {"instruction": instruction, "input": "", "output": "the correct answer is answer2", "answer": "answer2"}
    assert get_task("arc_easy").convert(row)["text"] == instruction
    ranked = get_task("arc_easy_ranking").convert(row)
    assert (ranked["text"], ranked["choices"], ranked["label"]) == ("What is hot?", ["ice", "fire, red"], 1)
    row = {
        "instruction": "Answer with true or false, question: is it so?\n\nAnswer format: true/false",
        "answer": "false",
    }
    ranked = get_task("boolq_ranking").convert(row)
    assert (ranked["text"], ranked["choices"], ranked["label"]) == ("is it so?", ["true", "false"], 1)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": 2}, "whole number from 0 to 1"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": "yes"}, "'yes'"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": 0.5}, "0.5"),
        ("piqa", {"goal": "g", "sol1": "a", "solution": "b", "label": 1}, "no column 'sol2'"),
        ("boolq", {"question": "q", "answer": "maybe"}, "true or false"),
        ("hellaswag", {"ctx": "c", "endings": ["a"], "label": 0}, "at least two"),
        ("arc_easy", {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"}, "'C'"),
        ("hellaswag", {"ctx": "c", "endings": list("abcde"), "label": 4}, "at most 4 have a word"),
        ("hellaswag", {"ctx": "c", "endings": 4, "label": 0}, "its options are 4"),
        ("hellaswag", {"ctx": "c", "endings": list("abcd"), "label": float("inf")}, "its label is inf"),
        ("arc_easy", {"question": "q", "choices": ["a", "b"], "answerKey": "A"}, "its choices are"),
        ("arc_easy", {"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "B"}, "two texts"),
        ("aqua", {"question": "which", "options": 5, "correct": "A"}, "its options are 5"),
        ("gsm8k", {"question": "what is number0", "Numbers": "some", "answer": "5"}, "'some'"),
        ("arc_easy", {"instruction": "do", "answer": "answer9"}, "'answer9'"),
        ("arc_easy_ranking", {"instruction": "do", "answer": "answer1"}, "lists no options"),
        ("gsm8k", {"question": "how many", "answer": "none"}, "a number is wanted"),
        ("aqua", {"question": "which", "options": ["A)1", "B)2"], "correct": "7"}, "a letter"),
        ("xsum", {"document": "d"}, "no column 'summary'"),
        ("xsum", {"document": 3, "summary": "s"}, "a text is wanted"),
        ("language-modelling", {"txt": "t"}, "Did you mean 'txt'"),
    ],
)
def test_a_row_that_is_none_is_named_with_the_reason(name: str, row: dict[str, Any], said: str, write: Write) -> None:
    good = get_good(name)
    folder = write(train=[good, good, row], validation=[good])
    with pytest.raises(DataError, match=said) as caught:
        get_task(name).load(DataSource(data_dir=folder))
    assert "1 of 3 rows of the train split" in str(caught.value)
    assert "row 3" in str(caught.value)


def get_good(name: str) -> dict[str, Any]:
    known = {form[0]: form[1] for form in FORMS} | {
        "gsm8k": {"question": "1 + 1", "answer": "#### 2"},
        "aqua": {"question": "1 + 1", "options": ["A)1", "B)2"], "correct": "B"},
        "xsum": {"document": "long", "summary": "short"},
        "language-modelling": {"text": "words"},
        "arc_easy_ranking": {"instruction": "Q: q\n\nAnswer1: a Answer2: b", "answer": "answer2"},
    }
    return known[name]


def test_rows_of_the_hub_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    table = {"document": ["a", "b", ""], "summary": ["x", "y", "z"]}
    raw = RawSplits({"train": table, "validation": table}, user_editable=False)
    data = replace(get_task("xsum"), default=lambda: raw).load(DataSource())
    assert len(data.splits["train"]) == 2
    assert "1 of 3 rows of the train split cannot be used and are left out." in data.notes


def test_a_test_split_without_answers_is_left_out_and_one_alone_can_be_scored(write: Write) -> None:
    rows = [{"goal": f"g{row}", "sol1": "a", "sol2": "b", "label": row % 2} for row in range(4)]
    hidden = [{**row, "label": -1} for row in rows]
    data = get_task("piqa").load(DataSource(data_dir=write(train=rows, validation=rows, test=hidden)))
    assert list(data.splits) == ["train", "validation"]
    assert "The split test is left out: its answers are withheld." in data.notes


def test_what_is_only_scored_needs_no_training_split(write: Write) -> None:
    folder = write(test=[FORMS[1][1]] * 2)
    assert list(get_task("piqa").load(DataSource(data_dir=folder, training=False)).splits) == ["test"]
    with pytest.raises(DataError, match="no training file"):
        get_task("piqa").load(DataSource(data_dir=folder))


def test_both_protocols_set_the_same_rows_aside(write: Write) -> None:
    rows = [{"goal": f"how to do {row}", "sol1": "a", "sol2": "b", "label": row % 2} for row in range(60)]
    source = DataSource(data_dir=write(train=rows))
    written, ranked = (get_task(name).load(source).splits["validation"]["text"][:] for name in ("piqa", "piqa_ranking"))
    assert [text.split("\n")[0] for text in written] == ranked


def test_problems_end_with_their_answer_and_lose_their_marks() -> None:
    row = {"question": "How many?", "answer": "He has 2+2 = <<2+2=4>>4 eggs.\n#### 1,204"}
    converted = get_task("gsm8k").convert(row)
    assert converted["target"] == "He has 2+2 = 4 eggs.\nThe answer is 1204."
    assert converted["reference"] == "1204"
    row = {"instruction": "How many?", "output": "\nA: Two. The answer is 2.", "answer": "2.0"}
    assert get_task("svamp").convert(row) == {
        "text": "How many?",
        "target": "A: Two. The answer is 2.",
        "reference": "2",
    }
    row = {"question": "Which?", "options": ["A)5", "B)7"], "rationale": "It is 7 for sure.", "correct": "B"}
    converted = get_task("aqua").convert(row)
    assert converted["text"] == "Which? Answer Choices: (A) 5 (B) 7"
    assert converted["target"] == "It is 7 for sure.\nThe answer is (B)."
    row = {"Question": "number0 and number1?", "Numbers": "56.0 9.0", "Answer": "65.0"}
    assert get_task("svamp").convert(row)["text"] == "56 and 9?"
    assert [get_task("math").convert({"instruction": "?", "answer": answer})["reference"] for answer in "C4"] == [
        "C",
        "4",
    ]


def test_a_large_set_is_streamed_where_few_rows_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"document": [f"d{row}" for row in range(50)], "summary": ["s"] * 50})
    asked: list[dict[str, Any]] = []

    def load(name: str, config: str | None, **options: Any) -> Any:
        asked.append(options)
        stream = rows.to_iterable_dataset() if options else rows
        return {"train": stream, "validation": stream}

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = get_task("xsum").load(DataSource(max_train_samples=8, max_eval_samples=4))
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (8, 4)
    assert "is streamed" in data.notes[0]
    assert len(get_task("xsum").load(DataSource(max_train_samples=8)).splits["validation"]) == 50
    assert asked == [{"streaming": True}, {}]
