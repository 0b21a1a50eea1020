"""Question answering and token classification from training to prediction, on a tiny model and rows made here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.records.options import EvaluateOptions, PredictOptions
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.predict import predict
from propulsion_tools.training.run import train
from tests.sentences import BAD, FILLER, GOOD

MakeSpec = Callable[..., RunSpec]
QUIET = {"disable_tqdm": True, "use_cpu": True}


def _question(draw: random.Random, answerable: bool) -> dict[str, Any]:
    """What was it? The one word of praise, if there is one; some contexts are longer than a window."""
    words = draw.choices(FILLER, k=draw.choice((5, 24)))
    place = draw.randrange(len(words))
    words[place] = draw.choice(GOOD) if answerable else "bad"
    answers = {"text": [words[place]], "answer_start": [len(" ".join([*words[:place], ""]))]}
    return {
        "context": " ".join(words),
        "question": "was the film",
        "answers": answers if answerable else {"text": [], "answer_start": []},
    }


def _sentence(draw: random.Random) -> dict[str, Any]:
    """A word of praise and a word of blame are an entity; some sentences are longer than a window."""
    words = draw.choices(FILLER, k=draw.choice((5, 24)))
    tags = ["O"] * len(words)
    place = draw.randrange(len(words) - 1)
    words[place : place + 2] = draw.choice(GOOD), draw.choice(BAD)
    tags[place : place + 2] = "B-MIXED", "I-MIXED"
    return {"tokens": words, "ner_tags": tags}


def _row(kind: str, draw: random.Random, number: int) -> dict[str, Any]:
    if kind == "token-classification":
        return _sentence(draw)
    return _question(draw, answerable=kind == "squad" or number % 3 > 0)


@pytest.fixture(scope="module", params=["squad", "squad_v2", "token-classification"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunRecord:
    """A run of each family that has learned its rows."""
    folder, draw = tmp_path_factory.mktemp(request.param.replace("-", "_")), random.Random(0)
    for split, count in (("train", 96), ("validation", 32)):
        rows = [json.dumps(_row(request.param, draw, number)) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    spec = RunSpec(
        task=request.param,
        model_name_or_path=str(tiny_model),
        data_dir=str(folder),
        output_dir=str(folder / "run"),
        max_length=20,
        doc_stride=4,
        degree=5,
        learning_rate=1e-2,
        num_train_epochs=12,
        eval_strategy="no",
        save_strategy="no",
        **QUIET,
    )
    return train(spec)


def test_it_learns_and_is_scored_again_as_it_was_recorded(finished: RunRecord) -> None:
    folder = Path(str(finished.spec.output_dir))
    assert RunRecord.read(folder) == finished
    assert finished.metrics["validation"]["f1"] > 0.8
    again = evaluate(folder, EvaluateOptions(**QUIET))["validation"]
    assert again == pytest.approx(finished.metrics["validation"], rel=1e-5)


def test_predictions_are_those_that_were_scored(finished: RunRecord, tmp_path: Path) -> None:
    folder, target = Path(str(finished.spec.output_dir)), tmp_path / "out.jsonl"
    source = folder.parent / "validation.jsonl"
    options = PredictOptions(input=str(source), output=str(target), per_device_eval_batch_size=5, **QUIET)
    assert predict(folder, options) == 32
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    if finished.spec.task == "token-classification":
        right = [row["prediction"]["tags"] == row["ner_tags"] for row in rows]
        words = [
            tag == guess for row in rows for tag, guess in zip(row["ner_tags"], row["prediction"]["tags"], strict=True)
        ]
        assert sum(words) / len(words) == pytest.approx(finished.metrics["validation"]["accuracy"])
        assert any(right)
    else:
        right = [row["prediction"]["answer"] in (row["answers"]["text"] or [""]) for row in rows]
        assert sum(right) / len(right) == pytest.approx(finished.metrics["validation"]["exact_match"])


def test_a_threshold_that_is_never_reached_answers_everything(finished: RunRecord, tmp_path: Path) -> None:
    if finished.spec.task != "squad_v2":
        pytest.skip("only version 2 has a threshold")
    folder = Path(str(finished.spec.output_dir))
    options = PredictOptions(
        input=str(folder.parent / "validation.jsonl"),
        output=str(tmp_path / "out.jsonl"),
        null_score_diff_threshold=1e6,
        **QUIET,
    )
    predict(folder, options)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(row["prediction"]["answer"] for row in rows)
    scores = evaluate(folder, EvaluateOptions(null_score_diff_threshold=1e6, **QUIET))["validation"]
    assert scores["exact_match"] < finished.metrics["validation"]["exact_match"]


def test_a_model_without_such_a_head_is_refused_before_its_weights_are_read(
    make_spec: MakeSpec, tmp_path: Path, finished: RunRecord
) -> None:
    from transformers import CodeGenConfig

    CodeGenConfig(vocab_size=32).save_pretrained(tmp_path)
    for file in Path(finished.spec.model_name_or_path).glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(OptionError, match=f"The task {finished.spec.task} needs a .* and codegen is a causal"):
        train(make_spec(task=finished.spec.task, model_name_or_path=str(tmp_path), data_dir=finished.spec.data_dir))


def test_windows_longer_than_the_model_are_refused(make_spec: MakeSpec, finished: RunRecord) -> None:
    changes = {"task": finished.spec.task, "data_dir": finished.spec.data_dir}
    with pytest.raises(OptionError, match="max_length is 33 and the model takes 32"):
        train(make_spec(**changes, max_length=33))
    if "squad" in str(finished.spec.task):
        with pytest.raises(DataError, match="leaves too few of max_length 8"):
            train(make_spec(**changes, max_length=8, doc_stride=4))
