"""Token classification: words with tags, each read at its first sub-token once, scored as seqeval scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import DataSource, Lengths, Setup, get_task
from propulsion_tools.tasks.base import INDEX
from propulsion_tools.tasks.padding import NOT_SCORED
from propulsion_tools.tasks.tag_metrics import TagMetrics
from propulsion_tools.tasks.token_classification import OPENED
from tests.tasks.conftest import Write

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ncbi_disease"
NAMES = ("O", "B-X", "I-X", "B-Y", "I-Y")
ROWS = [
    {"tokens": ["w1", "w2", "w3"], "ner_tags": ["O", "B-X", "I-X"]},
    {"tokens": [f"w{number}" for number in range(12)], "ner_tags": ["B-Y", *["O"] * 10, "B-X"]},
]


def _load(folder: str, task: str = "token-classification", **settings: Any) -> Any:
    return get_task(task).load(DataSource(data_dir=folder, **settings))


def test_a_folder_becomes_the_standard_columns(write: Write) -> None:
    data = _load(write(train=ROWS, dev=ROWS))
    assert data.label_names == NAMES
    assert data.splits["validation"].column_names == ["tokens", "tags"]
    assert data.splits["train"]["tags"][0] == [0, 1, 2]


def test_known_names_give_numbers_a_meaning(write: Write) -> None:
    rows = [{"words": ["w1", "w2"], "tags": [0, 1]}]
    data = _load(write(train=rows, validation=rows), "ncbi_disease")
    assert data.label_names == ("O", "B-Disease", "I-Disease")
    with pytest.raises(DataError, match="Row 1 of the train split has the tag 3: the tags are O, B-Disease"):
        _load(write(train=[{"words": ["w1"], "tags": [3]}], validation=rows), "ncbi_disease")


def test_a_type_that_training_lacks_is_refused(write: Write) -> None:
    other = [{"tokens": ["w1"], "ner_tags": ["B-Z"]}]
    with pytest.raises(DataError, match="Row 1 of the validation split has the tag 'B-Z'"):
        _load(write(train=ROWS, validation=other))


def test_a_missing_column_is_named(write: Write) -> None:
    bare = [{"tokens": ["w1"]}]
    with pytest.raises(DataError, match="holds the tags: name it with --label_column"):
        _load(write(train=bare))
    with pytest.raises(DataError, match="validation split lacks the column 'ner_tags'"):
        _load(write(train=ROWS, validation=bare))
    assert list(_load(write(train=ROWS, validation=ROWS, test=bare)).splits) == ["train", "validation"]


def test_the_hub_says_what_tags_are_called_and_its_empty_rows_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    part = datasets.Dataset.from_dict(
        {"tokens": [["w1"], [], ["w2"], ["w3", " "]], "ner_tags": [[1], [], [0], [1, 0]]}, features=features
    )
    asked: dict[str, Any] = {}

    def load_dataset(name: str, config: str | None, **more: Any) -> Any:
        asked.update(more, name=name)
        return datasets.DatasetDict({"train": part, "validation": part})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = get_task("token-classification").load(DataSource(dataset_name="some/set@refs/convert/parquet"))
    assert asked == {"name": "some/set", "revision": "refs/convert/parquet"}
    assert data.label_names == ("O", "B-X")
    assert data.splits["train"]["tokens"][:] == [["w1"], ["w2"]]
    assert "2 rows of the train split have no words, or an empty one" in data.notes[0]


def _encoded(write: Write, tokenizer: Any, training: bool, max_length: int = 5) -> tuple[Any, Any, Setup]:
    task = get_task("token-classification")
    data = _load(write(train=ROWS, validation=ROWS))
    setup = Setup(tokenizer, None, Lengths(max_length=max_length), data.label_names)
    part = data.splits["validation"]
    return part, task.encode(part, setup, training).rows, setup


def test_every_word_is_labelled_once_whatever_the_windows(write: Write, tokenizer: Any) -> None:
    for max_length in (4, 5, 64):
        part, rows, _ = _encoded(write, tokenizer, False, max_length)
        labels = [label for row in rows["labels"] for label in row if label != NOT_SCORED]
        assert labels == [tag for tags in part["tags"] for tag in tags]
        assert all(len(row) <= max_length for row in rows["input_ids"])
    assert not [name for name in _encoded(write, tokenizer, True)[1].column_names if name.startswith("eval_")]


def test_perfect_logits_give_perfect_scores_and_the_tags_back(write: Write, tokenizer: Any) -> None:
    task = get_task("token-classification")
    part, rows, setup = _encoded(write, tokenizer, False)
    batch = task.collator(setup)(list(rows))
    logits = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), len(NAMES)).float()
    answers = task.answer(None, batch, setup, type("Outputs", (), {"logits": logits}))
    scores = task.metrics(part, setup)(EvalPrediction(answers, batch[INDEX]))
    assert scores == {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    decoded = task.decode(tuple(part.numpy() for part in answers), batch[INDEX].tolist(), part, setup)
    assert [entry["tags"] for entry in decoded] == [row["ner_tags"] for row in ROWS]
    assert decoded[0]["entities"] == [{"type": "X", "text": "w2 w3", "start": 1, "end": 3}]
    assert [entity["type"] for entity in decoded[1]["entities"]] == ["Y", "X"]
    assert batch[OPENED].shape == batch["input_ids"].shape


def _score(truth: list[list[str]], answers: list[list[str]]) -> dict[str, float]:
    metrics = TagMetrics([[NAMES.index(tag) for tag in tags] for tags in truth], NAMES)
    for row, tags in enumerate(answers):
        words = np.array([[-1, *range(len(tags))]])
        ids = np.array([[NOT_SCORED, *map(NAMES.index, tags)]])
        found = metrics(EvalPrediction((ids, words), np.array([row])), compute_result=row == len(answers) - 1)
    return found


def test_entities_count_whole_and_with_their_type() -> None:
    # by hand: of the entities X(1-2), Y(0), X(3) the answers have Y(0) whole, X(1) instead of X(1-2), and Y for X(3)
    truth = [["O", "B-X", "I-X"], ["B-Y", "O", "O", "B-X"]]
    answers = [["O", "B-X", "O"], ["B-Y", "O", "O", "B-Y"]]
    scores = _score(truth, answers)
    assert scores == pytest.approx({"accuracy": 5 / 7, "precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3})


def test_no_entity_at_all_is_a_score_of_zero_and_not_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert _score([["O", "B-X"]], [["O", "O"]]) == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert not list(recwarn)


def test_words_that_no_token_stands_for_count_as_outside() -> None:
    metrics = TagMetrics([[1, 1], [0]], NAMES)
    found = metrics(EvalPrediction((np.array([[1]]), np.array([[0]])), np.array([0])))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["recall"] == 0.5


def test_rows_to_predict_for_are_words_or_texts() -> None:
    task = get_task("token-classification")
    assert task.unlabelled([{"tokens": ["a", "b-c"]}])["tokens"][:] == [["a", "b-c"]]
    assert task.unlabelled([{"text": "a b-c."}])["tokens"][:] == [["a", "b", "-", "c", "."]]
    with pytest.raises(DataError, match="holds the words"):
        task.unlabelled([{"id": 1}])
    with pytest.raises(DataError, match="no rows"):
        task.unlabelled([])


def test_the_real_set_at_hand_loads() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs data sets that are no part of the repository")
    data = _load(str(SHARED), "ncbi_disease", max_train_samples=64, max_eval_samples=32)
    assert (len(data.splits["train"]), len(data.splits["test"])) == (64, 32)


def test_words_and_texts_may_stand_side_by_side_and_a_bad_row_is_named() -> None:
    task = get_task("token-classification")
    rows: list[dict[str, Any]] = [{"tokens": ["a", "b"]}, {"tokens": "c, d"}]
    assert task.unlabelled(rows)["tokens"][:] == [["a", "b"], ["c", ",", "d"]]
    with pytest.raises(DataError, match="Row 3"):
        task.unlabelled([*rows, {"tokens": ["", "b"]}])
    with pytest.raises(DataError, match="Row 3"):
        task.unlabelled([*rows, {"tokens": 7}])
