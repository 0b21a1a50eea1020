"""Text classification: columns, labels, splits and samples, and every kind of row that cannot be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from propulsion_tools.errors import DataError, OptionError, UnknownNameError
from propulsion_tools.tasks import DataSource, Lengths, Setup, get_task, register, task_names
from propulsion_tools.tasks.base import INDEX
from propulsion_tools.tasks.classification import TextClassification
from propulsion_tools.tasks.raw_tables import RawSplits
from tests.tasks.conftest import Write, rows_of

SHARED = Path(__file__).parents[3] / "shared" / "data"
GENERIC = "text-classification"


def test_a_folder_becomes_the_standard_columns(write: Write) -> None:
    rows = rows_of(6, idx=1)
    data = get_task("sst2").load(DataSource(data_dir=write(train=rows, dev=rows[:4])))
    assert {split: part.column_names for split, part in data.splits.items()} == {
        "train": ["text", "label"],
        "validation": ["text", "label"],
    }
    assert data.splits["train"]["text"][:] == [row["sentence"] for row in rows]
    assert data.splits["train"]["label"][:] == [0, 1] * 3
    assert data.label_names == ("negative", "positive")
    assert data.notes == ()


def test_a_pair_has_a_second_column(write: Write) -> None:
    rows = [{"premise": f"w{row}", "hypothesis": "w1", "label": row % 3} for row in range(6)]
    data = get_task("mnli").load(DataSource(data_dir=write(train=rows, validation_matched=rows, dev_mismatched=rows)))
    assert list(data.splits) == ["train", "validation", "validation_mismatched"]
    assert data.splits["validation"].column_names == ["text", "text_pair", "label"]
    assert data.notes == ("validation_matched is used as the validation split.",)


@pytest.mark.parametrize("task", ["mrpc", "qqp"])
@pytest.mark.parametrize("labels", [(0, 1, 2), ("a", "b", "c")])
def test_a_score_of_two_classes_refuses_three_before_the_training(task: str, labels: tuple, write: Write) -> None:
    names = ("sentence1", "sentence2") if task == "mrpc" else ("question1", "question2")
    rows = [{**dict.fromkeys(names, f"w{row}"), "label": labels[row % 3]} for row in range(9)]
    with pytest.raises(DataError, match="F1 of the second of two classes, and the data has 3"):
        get_task(task).load(DataSource(data_dir=write(train=rows, validation=rows)))


def test_guesses_are_said_and_what_is_given_is_not_guessed(write: Write) -> None:
    rows = [{"id": row, "Review": f"w{row}", "remark": "w1", "Target": "ab"[row % 2]} for row in range(4)]
    folder = write(train=rows, validation=rows)
    data = get_task(GENERIC).load(DataSource(data_dir=folder))
    assert "the text is read from 'Review', the label from 'Target'" in data.notes[0]
    data = get_task(GENERIC).load(DataSource(data_dir=folder, text_column="remark", label_column="Target"))
    assert data.splits["train"]["text"][:] == ["w1"] * 4
    assert not [note for note in data.notes if "Guessed" in note]


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([0, 1, 0, 1], ("0", "1"), [0, 1, 0, 1]),
        (["1", "0", "1", "0"], ("0", "1"), [1, 0, 1, 0]),
        (["9", "10", "9", "10"], ("9", "10"), [0, 1, 0, 1]),
        ([3, 1, 7, 1], ("1", "3", "7"), [1, 0, 2, 0]),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1"), [1, 0, 1, 0]),
        ([True, False, True, False], ("0", "1"), [1, 0, 1, 0]),
        (["spam", "ham", " ham", "egg"], ("egg", "ham", "spam"), [2, 1, 1, 0]),
    ],
)
def test_labels_become_ids_in_sorted_order(write: Write, labels: list[Any], names: tuple[str, ...], ids: Any) -> None:
    rows = [{"text": f"w{row}", "label": label} for row, label in enumerate(labels)]
    data = get_task(GENERIC).load(DataSource(data_dir=write(train=rows, validation=rows)))
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == data.splits["validation"]["label"][:] == ids


@pytest.mark.parametrize(
    ("labels", "said"), [(("1.5", "-2.25", "3e-1"), True), (("1", "2", "4"), False), (("v1.5", "v2", "v3"), False)]
)
def test_names_that_are_fractions_point_to_regression(labels: tuple[str, ...], said: bool, write: Write) -> None:
    rows = [{"text": f"w{row}", "label": labels[row % 3]} for row in range(6)]
    data = get_task(GENERIC).load(DataSource(data_dir=write(train=rows, validation=rows)))
    assert any("--task text-regression" in note for note in data.notes) is said


def test_known_names_keep_their_order_and_others_are_noted(write: Write) -> None:
    rows = [{"sentence": f"w{row}", "label": ("positive", "negative")[row % 2]} for row in range(4)]
    data = get_task("sst2").load(DataSource(data_dir=write(train=rows, validation=rows)))
    assert data.splits["train"]["label"][:] == [1, 0, 1, 0]
    rows = [{"sentence": f"w{row}", "label": row % 3} for row in range(6)]
    data = get_task("sst2").load(DataSource(data_dir=write(train=rows, validation=rows)))
    assert data.label_names == ("0", "1", "2")
    assert "not the expected negative, positive" in data.notes[0]


def test_without_a_validation_split_a_part_is_kept_and_equal_texts_stay_together(write: Write) -> None:
    rows = rows_of(300)
    folder = write(train=[*rows, *rows[::-1]])
    data = get_task("sst2").load(DataSource(data_dir=folder))
    train, validation = (data.splits[split]["text"][:] for split in ("train", "validation"))
    assert not set(train) & set(validation)
    assert sorted([*train, *validation]) == sorted(row["sentence"] for row in rows * 2)
    assert 0.05 < len(validation) / 600 < 0.15
    assert "There is no validation split" in data.notes[0]
    write(train=[*rows[::-1], *rows])
    again = get_task("sst2").load(DataSource(data_dir=folder))
    assert set(again.splits["validation"]["text"]) == set(validation)


def test_a_sample_is_drawn_from_everywhere_kept_in_order_and_nested(write: Write) -> None:
    folder = write(train=rows_of(200), validation=rows_of(100))

    def drawn(**settings: Any) -> list[str]:
        return get_task("sst2").load(DataSource(data_dir=folder, **settings)).splits["train"]["text"][:]

    whole, large, small = drawn(), drawn(max_train_samples=50), drawn(max_train_samples=10, max_eval_samples=7)
    assert (len(large), len(small)) == (50, 10)
    assert set(small) < set(large) < set(whole)
    assert large == [text for text in whole if text in set(large)]
    assert large == drawn(max_train_samples=50)
    assert large != drawn(max_train_samples=50, seed=1)
    assert whole.index(large[-1]) > 100
    assert drawn(max_train_samples=10**6) == whole


@pytest.mark.parametrize("labels", [[-1] * 4, [None] * 4])
def test_a_test_split_without_answers_is_left_out(write: Write, labels: list[Any]) -> None:
    hidden = [{"sentence": f"w{row}", "label": label} for row, label in enumerate(labels)]
    data = get_task("sst2").load(DataSource(data_dir=write(train=rows_of(4), validation=rows_of(4), test=hidden)))
    assert list(data.splits) == ["train", "validation"]
    assert data.notes == ("The split test is left out: its labels are withheld.",)


@pytest.mark.parametrize("column", [{"label": -1}, {"label": "-1"}, {"gold_label": "-"}])
def test_rows_that_annotators_did_not_agree_on_are_left_out(write: Write, column: dict[str, Any]) -> None:
    names = ("entailment", "neutral", "contradiction")
    (name, value), numbers = next(iter(column.items())), "label" in column
    rows = [
        {"premise": f"w{row}", "hypothesis": "w1", name: row % 3 if numbers else names[row % 3]} for row in range(6)
    ]
    data = get_task("snli").load(DataSource(data_dir=write(train=[*rows, {**rows[0], name: value}], validation=rows)))
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == [0, 1, 2, 0, 1, 2]
    assert "1 of 7 rows of the train split have no agreed label" in " ".join(data.notes)


def test_regression_keeps_its_numbers(write: Write, tokenizer: Any) -> None:
    rows = [{"sentence1": f"w{row}", "sentence2": "w0", "label": row / 4} for row in range(8)]
    task = get_task("stsb")
    data = task.load(DataSource(data_dir=write(train=rows, validation=rows)))
    assert data.label_names is None
    assert task.model_kwargs(None) == {"num_labels": 1, "problem_type": "regression"}
    setup = Setup(tokenizer, None, Lengths(max_length=16))
    encoded = task.encode(data.splits["train"], setup, True).rows
    assert task.collator(setup)([encoded[row] for row in range(3)])["labels"].dtype == torch.float32
    assert task.decode(torch.tensor([[0.5], [2.0]]), [0, 1], None, setup) == [{"score": 0.5}, {"score": 2.0}]


def test_any_texts_with_numbers_are_a_regression(write: Write) -> None:
    rows = [{"text": f"w{row}", "label": row / 4} for row in range(4)]
    data = get_task("text-regression").load(DataSource(data_dir=write(train=rows, validation=rows)))
    assert (data.label_names, data.splits["train"]["label"][:]) == (None, [0, 0.25, 0.5, 0.75])


def _rows(values: list[Any], column: str = "label", **more: Any) -> list[dict[str, Any]]:
    base = [{"sentence": f"w{row}", "label": row % 2} for row in range(len(values))]
    return [{**row, column: value, **more} for row, value in zip(base, values, strict=True)]


BAD = {
    "no label column": (
        {"train": [{"sentence": "w1", "idx": 3}]},
        "no label column.*--label_column.*'sentence', 'idx'",
    ),
    "no text column": ({"train": [{"idx": 3, "label": 1}]}, "Cannot tell which column.*--text_column.*'idx', 'label'"),
    "two text columns": (
        {"train": [{"left": "w1", "right": "w2", "label": 1}]},
        "Cannot tell which column.*'left', 'right'",
    ),
    "one class": ({"train": _rows([1] * 4)}, "Every training row has the label 1: training needs at least two"),
    "withheld": ({"train": _rows([-1] * 4)}, "Every training row has the label -1"),
    "empty texts": (
        {"train": _rows(["w1", "", None, "  "], "sentence")},
        "3 of 4 rows of the train split have no text in column 'sentence', the first is row 2",
    ),
    "empty text in validation": (
        {"train": rows_of(4), "validation": _rows(["w1", ""], "sentence")},
        "1 of 2 rows of the validation split have no text .* row 2",
    ),
    "empty labels": ({"train": _rows([0, 1, None, ""])}, "2 of 4 rows of the train split have no label .* row 3"),
    "text is a number": ({"train": _rows([1, "w"], "sentence")}, "Row 1 of the train split has 1 in column 'sentence'"),
    "unseen labels": (
        {"train": _rows(["a", "b"]), "validation": _rows(["a", "c", "d"])},
        "validation split has labels that the training split lacks: c, d; it has a, b",
    ),
    "fractions": ({"train": _rows([0.5, 1.5])}, "the label 0.5, which is no class: .* --task text-regression"),
    "mixture": (
        {"train": _rows([1, "a"])},
        "Row 2 of the train split has the label 'a'.*all whole numbers or all names",
    ),
    "list": ({"train": _rows([[1], [2]])}, "all whole numbers or all names"),
    "column lacking in validation": (
        {"train": rows_of(4), "validation": [{"text": "w1", "label": 0}]},
        "The validation split lacks the column 'sentence' of the training split; it has 'text', 'label'",
    ),
    "too few": ({"train": _rows([0, 1])}, "2 training rows are too few to validate on a part: add a validation file"),
}


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_trained_on_are_refused(write: Write, case: str) -> None:
    splits, message = BAD[case]
    with pytest.raises(DataError, match=message):
        get_task(GENERIC).load(DataSource(data_dir=write(**splits)))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"text_column": "first"}, ["The column 'second' looks like text and is not read; --text_pair_column names"]),
        ({"text_column": "first", "text_pair_column": "second"}, []),
        ({"text_column": "title"}, ["The columns 'first', 'second' look like text and are not read; --text_pair"]),
        (
            {"text_column": "title", "text_pair_column": "second"},
            ["The column 'first' looks like text and is not read."],
        ),
    ],
)
def test_columns_of_texts_that_are_not_read_are_told(write: Write, named: dict[str, str], said: list[str]) -> None:
    texts = {"first": "a good film", "second": "an old plot", "title": "Short"}
    rows = [{**texts, "number": "12", "when": None, "label": row % 2} for row in range(4)]
    notes = get_task(GENERIC).load(DataSource(data_dir=write(train=rows, validation=rows), **named)).notes  # type: ignore[arg-type]
    unread = [note for note in notes if "not read" in note]
    assert [note.startswith(start) for note, start in zip(unread, said, strict=True)] == [True] * len(said)


@pytest.mark.parametrize("option", ["text_column", "text_pair_column", "label_column"])
def test_a_named_column_that_is_missing_is_refused(write: Write, option: str) -> None:
    with pytest.raises(DataError, match=rf"no column 'sentences' \(--{option}\)\. Did you mean 'sentence'"):
        get_task("sst2").load(DataSource(data_dir=write(train=rows_of(4)), **{option: "sentences"}))


def test_a_label_that_is_no_number_is_refused_in_regression(write: Write) -> None:
    rows = [{"sentence1": "w1", "sentence2": "w2", "label": "high"}]
    with pytest.raises(DataError, match="Row 1 of the train split has the label 'high', which is not a number"):
        get_task("stsb").load(DataSource(data_dir=write(train=rows, validation=rows)))


def test_contradictory_sources_are_refused() -> None:
    with pytest.raises(OptionError, match="both given"):
        DataSource(data_dir="here", dataset_name="there")
    with pytest.raises(OptionError, match="does not go with data_dir"):
        DataSource(data_dir="here", dataset_config_name="there")
    with pytest.raises(OptionError, match="max_train_samples must be at least 1, not 0"):
        DataSource(max_train_samples=0)


def test_the_generic_task_has_no_data_of_its_own() -> None:
    with pytest.raises(DataError, match="--data_dir or --dataset_name"):
        get_task(GENERIC).load(DataSource())


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*args: Any) -> None:
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"Cannot reach the hub for the data set nyu-mll/glue \(sst2\).*--data_dir"):
        get_task("sst2").load(DataSource())


def test_a_hub_data_set_gives_its_label_names_and_its_empty_rows_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    part = datasets.Dataset.from_dict({"text": ["w1", "w2", "", "w4"], "label": [0, 1, 1, 0]}, features=features)
    loaded = datasets.DatasetDict({"train": part, "dev": part, "unsupervised": part})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: loaded)
    data = get_task(GENERIC).load(DataSource(dataset_name="some/set"))
    assert data.label_names == ("ham", "spam")
    assert list(data.splits) == ["train", "validation"]
    assert data.splits["train"]["text"][:] == ["w1", "w2", "w4"]
    assert [note for note in data.notes if "1 of 4 rows of the train split have an empty field" in note]


def test_rows_are_tokenised_with_their_labels_and_padded_to_the_longest(write: Write, tokenizer: Any) -> None:
    rows = [{"sentence1": "w1 " * (row + 1), "sentence2": "w2 w3", "label": row % 2} for row in range(6)]
    task = get_task("mrpc")
    data = task.load(DataSource(data_dir=write(train=rows, validation=rows)))
    setup = Setup(tokenizer, None, Lengths(max_length=8))
    encoded = task.encode(data.splits["train"], setup, True).rows
    assert encoded["labels"][:] == [0, 1] * 3
    assert [len(ids) for ids in encoded["input_ids"]] == [5, 6, 7, 8, 8, 8]
    assert not {"text", INDEX} & set(encoded.column_names)
    assert task.encode(data.splits["train"], setup, False).rows[INDEX][:] == list(range(6))
    batch = task.collator(setup)([encoded[row] for row in range(3)])
    assert batch["input_ids"].shape == (3, 7)
    assert batch["labels"].dtype == torch.int64


def test_texts_are_encoded_as_training_rows_are(write: Write, tokenizer: Any) -> None:
    rows = [{"sentence1": f"w{row}", "sentence2": "w2 w3", "label": row % 2} for row in range(4)]
    task = get_task("mrpc")
    data = task.load(DataSource(data_dir=write(train=rows, validation=rows)))
    unlabelled = [{"sentence1": row["sentence1"], "sentence2": row["sentence2"]} for row in rows]
    setup = Setup(tokenizer, None, Lengths(max_length=8))
    encoded = task.encode(task.unlabelled(unlabelled), setup, False).rows
    assert encoded["input_ids"][:] == task.encode(data.splits["train"], setup, True).rows["input_ids"][:]
    assert "labels" not in encoded.column_names
    assert task.unlabelled([{"a": "w1", "b": "w2"}], "b")["text"][:] == ["w2"]
    with pytest.raises(DataError, match="1 of 2 rows have no text in column 'text', the first is row 2"):
        task.unlabelled([{"text": "w1"}, {"text": " "}])
    with pytest.raises(DataError, match="no rows"):
        task.unlabelled([])


def test_answers_are_read_from_logits() -> None:
    logits = torch.tensor([[1.0, 3.0], [1000.0, -1000.0]], dtype=torch.bfloat16)
    setup = Setup(None, None, label_names=("negative", "positive"))
    first, second = get_task("sst2").decode(logits, [0, 1], None, setup)
    assert (first["label"], first["label_id"]) == ("positive", 1)
    assert first["scores"]["positive"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert second["scores"] == {"negative": 1.0, "positive": 0.0}


def test_the_demo_task_reads_what_the_miner_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    table = {"text": ["w1", "w2", "w3", "w4"], "label": ["numpy", "torch"] * 2}
    raw = RawSplits({"train": table, "validation": table}, ("Mined.",), {"label": ("numpy", "torch")})
    task = replace(get_task("docstrings"), default=lambda: raw)  # type: ignore[type-var]
    data = task.load(DataSource())
    assert (data.label_names, data.notes) == (("numpy", "torch"), ("Mined.",))


OTHERS = ("docstrings", GENERIC)
NAMED = [name for name in task_names() if isinstance(get_task(name), TextClassification) and name not in OTHERS]


@pytest.mark.parametrize("name", NAMED)
def test_the_named_sets_at_hand_load(name: str) -> None:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip("needs data sets that are no part of the repository")
    data = get_task(name).load(DataSource(data_dir=str(folder), max_train_samples=64, max_eval_samples=32))
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (64, 32)
    assert not [note for note in data.notes if "sample" not in note]


def test_names_are_looked_up_with_near_misses_and_never_taken_twice() -> None:
    assert task_names()[:2] == ["docstrings", GENERIC]
    with pytest.raises(UnknownNameError, match="Did you mean 'sst2'"):
        get_task("sst-2")
    with pytest.raises(OptionError, match="already a task 'sst2'"):
        register(get_task("sst2"))
