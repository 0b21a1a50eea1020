"""A column that the user names is read, or refused; never passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import DataSource, get_task


def source(folder: Path, **named: str) -> DataSource:
    """Two rows with texts under names of their own, in both splits."""
    for split in ("train", "validation"):
        rows = [{"text": "wrong", "body": f"document {n}", "short": f"line {n}"} for n in range(2)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DataSource(data_dir=str(folder), **named)


def test_language_modelling_reads_the_named_text(tmp_path: Path) -> None:
    data = get_task("language-modelling").load(source(tmp_path, text_column="body"))
    assert data.splits["train"]["target"] == ["document 0", "document 1"]


def test_a_named_text_is_read_alone(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "p", "completion": "c", "body": "b"}\n')
    data = get_task("language-modelling").load(DataSource(data_dir=str(tmp_path), text_column="body"))
    assert (data.splits["train"]["text"], data.splits["train"]["target"]) == ([""], ["b"])


def test_what_an_older_run_has_named_in_vain_does_not_stop_its_evaluation(tmp_path: Path) -> None:
    rows = '{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}\n'
    (tmp_path / "validation.jsonl").write_text(rows)
    named = DataSource(data_dir=str(tmp_path), label_column="label", training=False)
    assert len(get_task("piqa").load(named).splits["validation"]) == 1


def test_a_pair_is_completed_where_the_task_knows_it() -> None:
    rows = [{"p": "first", "premise": "x", "hypothesis": "second"}]
    assert get_task("mnli").unlabelled(rows, "p").column_names == ["text", "text_pair"]


def test_language_modelling_reads_a_named_prompt_and_completion(tmp_path: Path) -> None:
    data = get_task("language-modelling").load(source(tmp_path, text_column="body", label_column="short"))
    assert data.splits["train"]["text"] == ["document 0", "document 1"]
    assert data.splits["train"]["target"] == ["line 0", "line 1"]


def test_summarization_reads_the_named_document_and_summary(tmp_path: Path) -> None:
    data = get_task("xsum").load(source(tmp_path, text_column="body", label_column="short"))
    assert data.splits["train"]["text"] == ["document 0", "document 1"]
    assert data.splits["train"]["target"] == ["line 0", "line 1"]


@pytest.mark.parametrize(
    ("task", "named", "says"),
    [
        ("language-modelling", {"text_column": "bdoy"}, "'body'"),
        ("xsum", {"text_column": "body", "label_column": "body"}, "named twice"),
        ("language-modelling", {"label_column": "short"}, "name the prompt"),
        ("xsum", {"text_pair_column": "body"}, "text_pair_column says nothing"),
        ("piqa", {"text_column": "body"}, "text_column says nothing to the task piqa"),
        ("text-classification", {"text_column": "body", "label_column": "body"}, "named twice"),
    ],
)
def test_a_name_that_cannot_be_followed_is_refused(task: str, named: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        get_task(task).load(source(tmp_path, **named))


def test_only_what_is_guessed_is_said_to_be(tmp_path: Path) -> None:
    rows = [{"review": f"w{row}", "stars": "ab"[row % 2], "label": "cd"[row % 2]} for row in range(4)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = get_task("text-classification")
    notes = task.load(DataSource(data_dir=str(tmp_path), text_column="review")).notes
    assert "Guessed from the column names: the label is read from 'label'; --label_column says otherwise." in notes
    notes = task.load(DataSource(data_dir=str(tmp_path), label_column="stars")).notes
    assert "Guessed from the column names: the text is read from 'review'; --text_column says otherwise." in notes
