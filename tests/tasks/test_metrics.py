"""Streamed scores are the scores of the whole, and keep no logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from propulsion_tools.errors import NotFiniteError, UnknownNameError
from propulsion_tools.tasks import get_task
from propulsion_tools.tasks.metrics import streamed
from tests.processes import WithPeftAlone


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 40), cuts=st.integers(1, 5))
def test_batches_give_the_same_as_one_batch(seed: int, rows: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(rows, 2)), rng.integers(0, 2, rows)
    names = ("accuracy", "f1", "f1_macro", "mcc")
    whole = streamed(names)(EvalPrediction(logits, labels), compute_result=True)
    metrics = streamed(names)
    parts = list(zip(np.array_split(logits, cuts), np.array_split(labels, cuts), strict=True))
    for number, (part, truth) in enumerate(parts, 1):
        result = metrics(EvalPrediction(torch.tensor(part), torch.tensor(truth)), compute_result=number == len(parts))
    assert result == pytest.approx(whole)
    assert whole["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())


def test_a_second_evaluation_starts_afresh() -> None:
    metrics = get_task("sst2").metrics(None, None)
    good = EvalPrediction(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 0]))
    bad = EvalPrediction(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1]))
    assert metrics(good, compute_result=False) == {}
    assert metrics(good, compute_result=True)["accuracy"] == 1.0
    assert metrics(bad, compute_result=True)["accuracy"] == 0.0


def test_only_answers_are_kept_of_a_batch() -> None:
    metrics = get_task("sst2").metrics(None, None)
    metrics(EvalPrediction((torch.zeros(8, 1000), torch.zeros(8, 5, 64)), torch.zeros(8)), compute_result=False)
    kept = [array for value in vars(metrics).values() if isinstance(value, list) for array in value]
    assert sum(array.size for array in kept) == 16


def test_regression_is_scored_by_correlation_and_a_constant_answer_by_zero() -> None:
    metrics = get_task("stsb").metrics(None, None)
    labels = np.array([0.0, 1.0, 2.5, 5.0])
    assert metrics(EvalPrediction(3 * labels[:, None] + 1, labels)) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    assert metrics(EvalPrediction(np.ones((4, 1)), labels)) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_not_finite_is_no_score(value: Any) -> None:
    with pytest.raises(NotFiniteError, match="not finite"):
        get_task("sst2").metrics(None, None)(EvalPrediction(np.array([[value, 1.0]]), np.array([0])))


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no score 'bleu'\. There are accuracy"):
        streamed(("bleu",))


def test_importing_the_tasks_imports_none_of_the_extras(with_peft_alone: WithPeftAlone) -> None:
    program = "import sys; before = set(sys.modules); import propulsion_tools.tasks; print(*set(sys.modules) - before)"
    done = with_peft_alone(program)
    assert done.status == 0, done.errors
    assert "propulsion_tools.tasks" in done.out.split()
    assert not {"datasets", "sklearn", "scipy", "pandas", "pyarrow"} & set(done.out.split())


@pytest.mark.filterwarnings("error")
def test_one_class_has_no_correlation_and_needs_no_warning() -> None:
    logits, labels = np.array([[1.0, 0.0]] * 4), np.zeros(4, dtype=int)
    assert streamed(("mcc",))(EvalPrediction(logits, labels), compute_result=True) == {"mcc": 0.0}
