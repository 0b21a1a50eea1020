"""A prediction over HTTP is the one that `propulsion predict` makes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.records.options import PredictOptions
from propulsion_tools.training.predict import predict
from tests.serving.client import Client, running
from tests.serving.conftest import open_engine
from tests.serving.runs import save_run

TEXTS = ["the film was good", "a dull plot", "the actors were really great and the film was a lovely film " * 3]
PAIRS = [{"sentence1": "the film was good", "sentence2": "a fine plot"}, {"sentence1": "a", "sentence2": "dull film"}]
CONTEXTS = [
    {"question": "was the film good", "context": "the actors were great and a really dull plot was the film " * 3}
]


def predicted(folder: Path, rows: list[dict[str, Any]], tmp_path: Path) -> list[Any]:
    """What `propulsion predict` gives."""
    source, target = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(folder, PredictOptions(input=str(source), output=str(target), use_cpu=True, disable_tqdm=True))
    return [json.loads(line)["prediction"] for line in target.read_text().splitlines()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mood", [{"text": text} for text in TEXTS]),
        ("topic", [{"text": text} for text in TEXTS]),
        ("pairs", PAIRS),
        ("stars", PAIRS),
    ],
)
def test_a_sequence_gets_the_prediction_of_its_adapter(
    name: str, rows: list[Any], client: Client, classifiers: Path, tmp_path: Path
) -> None:
    reply = client("POST", "/v1/predict", {"adapter": name, "inputs": rows})
    assert reply.status == 200, reply.text
    expected = predicted(classifiers / name, rows, tmp_path)
    assert all(map(same, reply.json["predictions"], expected))
    assert len(expected) == len(reply.json["predictions"])


@pytest.mark.parametrize(
    ("task", "labels", "rows"),
    [
        ("token-classification", ("O", "B-X", "I-X"), [{"tokens": text.split()} for text in TEXTS]),
        ("squad_v2", None, CONTEXTS),
    ],
)
def test_words_and_spans_are_read_in_windows(
    task: str, labels: tuple[str, ...] | None, rows: list[Any], tiny_model: Path, tmp_path: Path
) -> None:
    folder = save_run(tmp_path / "adapters" / "one", tiny_model, task, labels)
    with running(open_engine(folder.parent)) as client:
        reply = client("POST", "/v1/predict", {"adapter": "one", "inputs": rows})
    assert reply.status == 200, reply.text
    assert all(map(same, reply.json["predictions"], predicted(folder, rows, tmp_path)))


def test_requests_of_different_adapters_share_a_batch_and_keep_their_answers(classifiers: Path) -> None:
    asked = [(name, TEXTS[number % 2]) for number, name in enumerate(["mood", "topic"] * 8)]
    with running(open_engine(classifiers, max_wait_ms=200.0)) as client:
        alone = {pair: client("POST", "/v1/predict", _body(*pair)).json["predictions"] for pair in set(asked)}
        before = client.number("propulsion_batch_rows_count")
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda pair: client("POST", "/v1/predict", _body(*pair)), asked))
        batches = client.number("propulsion_batch_rows_count") - before
    assert batches < len(asked)
    for pair, reply in zip(asked, together, strict=True):
        assert all(map(same, reply.json["predictions"], alone[pair]))


def _body(name: str, text: str) -> dict[str, str]:
    return {"adapter": name, "inputs": text}
