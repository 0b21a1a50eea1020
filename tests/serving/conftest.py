"""Engines over tiny models, each with adapters of several tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving import engine as engines
from propulsion_tools.serving.engine import Engine
from tests.serving.client import Client, running
from tests.serving.runs import save_run


def open_engine(folder: Path, **options: Any) -> Engine:
    """What `propulsion serve` opens; what it refuses is an error here."""
    return engines.open_engine(ServeOptions(adapters=str(folder), use_cpu=True, **options), refuse)


def refuse(sentence: str) -> None:
    raise AssertionError(sentence)


@pytest.fixture(scope="session")
def classifiers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of classification with 2 and 3 labels, of pairs, and of regression."""
    folder = tmp_path_factory.mktemp("classifiers")
    save_run(folder / "mood", tiny_model, "text-classification", ("bad", "good"), {"text_column": "text"}, 1)
    save_run(folder / "topic", tiny_model, "text-classification", ("a", "b", "c"), {"text_column": "text"}, 2)
    pair = {"text_column": "sentence1", "text_pair_column": "sentence2"}
    save_run(folder / "pairs", tiny_model, "mrpc", ("no", "yes"), pair, 3)
    save_run(folder / "stars", tiny_model, "stsb", None, pair, 4)
    return folder


@pytest.fixture(scope="module")
def client(classifiers: Path) -> Iterator[Client]:
    """A server of them."""
    with running(open_engine(classifiers)) as client:
        yield client
