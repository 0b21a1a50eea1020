"""A checkpoint whose head is of another size than the data wants: a new head starts, and is there again afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.records.options import EvaluateOptions, PredictOptions
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.predict import predict
from propulsion_tools.training.run import train
from tests.sentences import FILLER

MakeSpec = Callable[..., RunSpec]
QUIET = {"disable_tqdm": True, "use_cpu": True}
ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "text-classification": lambda row: {"text": f"{FILLER[row % 5]} film {row}", "label": "abc"[row % 3]},
    "stsb": lambda row: {"sentence1": f"film {row}", "sentence2": FILLER[row % 5], "label": row % 3 / 2},
    "token-classification": lambda row: {"tokens": ["the", FILLER[row % 5]], "ner_tags": ["O", "B-X"]},
    "question-answering": lambda row: {"question": "what", "context": f"the film {row}", "answers": "film"},
}
CASES = [
    *(("text-classification", 2, "SequenceClassification", True, method) for method in ("propulsion", "full", "head")),
    ("text-classification", 1, "SequenceClassification", True, "propulsion"),
    ("text-classification", 3, "SequenceClassification", False, "propulsion"),
    ("text-classification", 9, "TokenClassification", True, "propulsion"),
    ("stsb", 3, "SequenceClassification", True, "propulsion"),
    ("token-classification", 9, "TokenClassification", True, "propulsion"),
    ("question-answering", 3, "SequenceClassification", True, "propulsion"),
]


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Callable[[int, str], str]:
    """A model that someone has trained a classifier on."""

    def write(labels: int, head: str) -> str:
        torch.manual_seed(0)
        auto = AutoModelForTokenClassification if head.startswith("Token") else AutoModelForSequenceClassification
        auto.from_pretrained(tiny_model, num_labels=labels).save_pretrained(tmp_path / "sentiment")
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "sentiment")
        return str(tmp_path / "sentiment")

    return write


def write_rows(folder: Path, task: str) -> str:
    folder.mkdir()
    for split, first in (("train", 0), ("validation", 24)):
        rows = [json.dumps(ROWS[task](row)) for row in range(first, first + 24)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return str(folder)


@pytest.mark.parametrize(("task", "labels", "head", "is_new", "method"), CASES)
def test_a_head_of_another_size_starts_anew_and_comes_back(
    task: str,
    labels: int,
    head: str,
    is_new: bool,
    method: str,
    checkpoint: Callable[[int, str], str],
    make_spec: MakeSpec,
    tmp_path: Path,
) -> None:
    name, data_dir = checkpoint(labels, head), write_rows(tmp_path / "rows", task)
    said: list[str] = []
    spec = make_spec(task=task, model_name_or_path=name, data_dir=data_dir, method=method, max_steps=4, doc_stride=4)
    record = train(spec, said.append)
    assert any("a new head is started in its place" in note for note in said) == is_new
    assert any(f"a head of {labels} output" in note for note in record.notes) == is_new
    again = evaluate(tmp_path / "run", EvaluateOptions(**QUIET))
    assert again["validation"] == pytest.approx(record.metrics["validation"], rel=1e-4)
    target = tmp_path / "out.jsonl"
    options = PredictOptions(input=f"{data_dir}/validation.jsonl", output=str(target), **QUIET)
    assert predict(tmp_path / "run", options) == 24
    if task == "text-classification":
        answers = [json.loads(line) for line in target.read_text().splitlines()]
        right = sum(row["prediction"]["label"] == row["label"] for row in answers)
        assert right / 24 == pytest.approx(record.metrics["validation"]["accuracy"])
        assert set(answers[0]["prediction"]["scores"]) == {"a", "b", "c"}


def test_a_backbone_of_another_size_is_refused(
    checkpoint: Callable[[int, str], str], make_spec: MakeSpec, tmp_path: Path
) -> None:
    name = checkpoint(2, "SequenceClassification")
    config = json.loads((Path(name) / "config.json").read_text())
    (Path(name) / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(OptionError, match="is of another size than its configuration says"):
        train(make_spec(model_name_or_path=name))
