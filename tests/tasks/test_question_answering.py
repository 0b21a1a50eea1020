"""Question answering: rows of every form, spans that come back as they went in, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import DataSource, Lengths, Setup, get_task
from propulsion_tools.tasks.base import INDEX
from propulsion_tools.tasks.question_answering import END_CHARS, NULL, START_CHARS
from propulsion_tools.tasks.span_metrics import SpanMetrics
from tests.tasks.conftest import Write

CONTEXT = " ".join(f"w{number}" for number in range(20))


def _rows(*answers: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"context": CONTEXT, "question": "w1 w2", "answers": answer, **more} for answer in answers]


def _load(folder: str, task: str = "squad", **settings: Any) -> Any:
    return get_task(task).load(DataSource(data_dir=folder, **settings))


def _setup(tokenizer: Any, **more: Any) -> Setup:
    return Setup(tokenizer, None, Lengths(max_length=14, doc_stride=4), **more)


def test_a_folder_becomes_the_standard_columns(write: Write) -> None:
    rows = _rows({"text": ["w3"], "answer_start": [9]}, "w4 w5")
    data = _load(write(train=rows, validation=rows))
    assert data.splits["validation"].column_names == ["context", "question", "answers"]
    assert data.splits["train"]["answers"][:] == [
        {"text": ["w3"], "answer_start": [9]},
        {"text": ["w4 w5"], "answer_start": [12]},
    ]
    assert data.label_names is None


def test_columns_may_have_other_names(write: Write) -> None:
    rows = [{"passage": CONTEXT, "query": "w1", "answer": "w3"}]
    assert _load(write(train=rows, validation=rows)).splits["train"]["answers"][0]["text"] == ["w3"]
    rows = [{"a": CONTEXT, "b": "w1", "c": "w3"}]
    data = _load(write(train=rows, validation=rows), text_column="a", text_pair_column="b", label_column="c")
    assert data.splits["train"]["question"][:] == ["w1"]


def test_all_questions_of_a_context_stay_on_one_side(write: Write) -> None:
    rows = [{"context": f"w1 w2 {number // 3}", "question": f"w{number}", "answers": "w1"} for number in range(300)]
    data = _load(write(train=rows))
    assert not set(data.splits["train"]["context"]) & set(data.splits["validation"]["context"])


def test_a_test_split_without_answers_is_left_out(write: Write) -> None:
    bare = [{"context": CONTEXT, "question": "w1"}]
    data = _load(write(train=_rows("w3"), validation=_rows("w3"), test=bare))
    assert list(data.splits) == ["train", "validation"]


BAD = {
    "not in the context": (_rows("w3", "w99"), "squad", "1 of 2 rows of the train split have an answer that does not"),
    "without an answer": (_rows("w3", []), "squad", "1 of 2 rows.*no answer, the first is row 2.*squad_v2"),
    "of another form": (_rows("w3", 7), "squad", "Row 2 of the train split: the answer 7 is neither"),
    "empty question": (_rows("w3", question=" "), "squad_v2", "no text in column 'question'"),
    "no answers": ([{"context": "w1", "question": "w1"}], "squad", "holds the answers: name it with --label_column"),
    "no context": (
        [{"body": "w1", "question": "w1", "answers": "w1"}],
        "squad",
        "holds the context: name it with --text_column",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_trained_on_are_refused(write: Write, case: str) -> None:
    rows, task, message = BAD[case]
    with pytest.raises(DataError, match=message):
        _load(write(train=rows, validation=rows), task)


def test_version_two_keeps_questions_without_an_answer(write: Write) -> None:
    rows = _rows({"text": ["w3"], "answer_start": [9]}, {"text": [], "answer_start": []})
    data = _load(write(train=rows, validation=rows), "squad_v2")
    assert [answer["text"] for answer in data.splits["train"]["answers"]] == [["w3"], []]


def test_windows_without_the_answer_point_at_no_answer(write: Write, tokenizer: Any) -> None:
    rows = _rows("w15 w16", [])
    task, setup = get_task("squad_v2"), _setup(tokenizer)
    part = _load(write(train=rows, validation=rows), "squad_v2").splits["train"]
    training, scored = (task.encode(part, setup, flag).rows for flag in (True, False))
    assert set(training.column_names) == {"input_ids", "attention_mask", "start_positions", "end_positions"} | (
        {"token_type_ids"} & set(training.column_names)
    )
    targets = set()
    for row in scored:
        start, end = row["start_positions"], row["end_positions"]
        text = "" if start == row[NULL] else CONTEXT[row[START_CHARS][start] : row[END_CHARS][end]]
        targets.add((row[INDEX], text))
    assert targets == {(0, ""), (0, "w15 w16"), (1, "")}


class _Perfect(torch.nn.Module):
    """Scores the labelled tokens highest, and shows its arguments."""

    def forward(self, **batch: Any) -> Any:
        assert not [name for name in batch if name.startswith("eval_")]
        width = batch["input_ids"].shape[1]
        logits = [torch.nn.functional.one_hot(batch[f"{side}_positions"], width) * 9.0 for side in ("start", "end")]
        return type("Outputs", (), {"start_logits": logits[0], "end_logits": logits[1]})


@pytest.mark.parametrize("task", ["squad", "squad_v2"])
def test_perfect_logits_give_perfect_scores_and_the_words_back(write: Write, tokenizer: Any, task: str) -> None:
    answers = ["w3", "w15 w16 w17", "w19", *([[]] if task == "squad_v2" else [])]
    rows = _rows(*answers)
    this, setup = get_task(task), _setup(tokenizer)
    part = _load(write(train=rows, validation=rows), task).splits["validation"]
    encoded = this.encode(part, setup, training=False).rows
    assert len(encoded) > len(part)
    metrics, kept = this.metrics(part, setup), []
    for first in range(0, len(encoded), 3):
        batch = this.collator(setup)([encoded[row] for row in range(first, min(first + 3, len(encoded)))])
        kept.append((this.answer(_Perfect(), batch, setup), batch[INDEX]))
    for number, (answer, index) in enumerate(kept, 1):
        scores = metrics(EvalPrediction(answer, index), compute_result=number == len(kept))
    assert (scores["exact_match"], scores["f1"]) == (1.0, 1.0)
    joined = tuple(np.concatenate([answer[part] for answer, _ in kept]) for part in (0, 1))
    index = torch.cat([index for _, index in kept]).tolist()
    decoded = this.decode(joined, index, part, setup)
    assert [entry["answer"] for entry in decoded] == [answer if isinstance(answer, str) else "" for answer in answers]


def test_the_threshold_decides_what_is_left_unanswered(tokenizer: Any) -> None:
    task, rows = get_task("squad_v2"), get_task("squad_v2").unlabelled([{"context": CONTEXT, "question": "w1"}])
    answers = (np.array([[0, 2], [3, 5]]), np.array([[1.0, 2.0], [0.5, 4.0]]))  # best 1, "no answer" at least 2
    for threshold, text in ((0.0, ""), (0.9, ""), (1.0, "w0")):
        setup = _setup(tokenizer, null_score_diff_threshold=threshold)
        (entry,) = task.decode(answers, [0, 0], rows, setup)
        assert (entry["answer"], entry["score"], entry["no_answer_score"]) == (text, 1.0, 2.0)
    (entry,) = get_task("squad").decode(answers, [0, 0], rows, _setup(tokenizer))
    assert entry == {"answer": "w0", "start": 0, "end": 2, "score": 1.0}


def test_the_best_threshold_is_found_beside_the_scores_at_zero() -> None:
    answers = [{"text": ["w0"]}, {"text": []}]
    metrics = SpanMetrics([CONTEXT, CONTEXT], answers, 0.0)
    chars, scores = np.array([[0, 2], [0, 2]]), np.array([[0.0, 1.0], [0.0, 3.0]])
    found = metrics(EvalPrediction((chars, scores), np.array([0, 1])))
    assert found == {
        "exact_match": 0.5,
        "f1": 0.5,
        "best_exact_match": 1.0,
        "best_f1": 1.0,
        "best_f1_threshold": 1.0,
    }
    again = metrics(EvalPrediction((chars[:1], scores[:1] * 0), np.array([0])))
    assert again["exact_match"] == 1.0, "the windows before are forgotten, and a row without any is unanswered"


def test_rows_to_predict_for_need_a_context_and_a_question() -> None:
    task = get_task("squad")
    with pytest.raises(DataError, match="holds the question: name it with --text_pair_column"):
        task.unlabelled([{"context": "w1"}])
    with pytest.raises(DataError, match="no rows"):
        task.unlabelled([])
