"""Laws of records: both ways without loss, whole or not at all, and nothing unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propulsion_tools.errors import OptionError, UnknownNameError
from propulsion_tools.records import RunRecord, RunSpec

NAMES = st.text(min_size=1, max_size=12)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SPECS = st.builds(
    RunSpec,
    model_name_or_path=NAMES,
    target_modules=st.none() | NAMES | st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    degree=st.integers(0, 99) | st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple),
    degree_pattern=st.none() | st.dictionaries(NAMES, st.integers(0, 99), max_size=2),
    init_weights=st.booleans() | st.just("normal"),
    learning_rate=st.none() | st.floats(1e-9, 1e9),
    seed=st.integers(0, 2**32 - 1),
    bf16=st.booleans(),
    resume_from_checkpoint=st.none() | st.booleans() | NAMES,
)
COUNTS: dict[str, dict[str, object]] = {
    "parameters": dict.fromkeys(("adapter", "head", "trainable", "total"), 0),
    "seconds": {"train": 0.0, "per_step_median": 0.0},
    "environment": {"versions": {}, "device": "cpu", "threads": 1},
}
RECORDS = st.builds(
    RunRecord,
    spec=SPECS,
    metrics=st.dictionaries(NAMES, st.dictionaries(NAMES, FINITE, max_size=3), max_size=3),
    parameters=st.fixed_dictionaries(dict.fromkeys(("adapter", "head", "trainable", "total"), st.integers(0, 10**12))),
    adapter_bytes=st.integers(0, 10**12),
    seconds=st.fixed_dictionaries({"train": FINITE, "per_step_median": FINITE}, optional={"evaluate": FINITE}),
    peak_memory_bytes=st.integers(0, 10**12),
    environment=st.just({"versions": {"torch": "2"}, "device": "cpu", "threads": 2}),
    label_names=st.none() | st.lists(NAMES, max_size=3).map(tuple),
    history=st.dictionaries(NAMES, st.lists(st.lists(FINITE, min_size=2, max_size=2), max_size=3), max_size=2),
    notes=st.lists(NAMES, max_size=2).map(tuple),
)


@given(RECORDS)
def test_json_and_back_is_the_same(record: RunRecord) -> None:
    assert RunRecord.from_json(record.to_json()) == record


@given(RECORDS)
def test_keys_that_other_tools_read(record: RunRecord) -> None:
    keys = {"schema_version", "spec", "metrics", "parameters", "adapter_bytes", "seconds", "peak_memory_bytes"}
    assert keys | {"environment"} <= json.loads(record.to_json()).keys()


def example(**changes: object) -> RunRecord:
    values = {"spec": RunSpec(), "metrics": {}, "adapter_bytes": 0, "peak_memory_bytes": 0, **COUNTS}
    return RunRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_a_number_that_is_not_finite_becomes_null() -> None:
    text = example(metrics={"validation": {"f1": float("nan")}}).to_json()
    assert json.loads(text)["metrics"] == {"validation": {"f1": None}}


@pytest.mark.parametrize(("key", "meant"), [("metrixs", "metrics"), ("secondz", "seconds")])
def test_unknown_key_of_a_record_is_refused_with_its_near_miss(key: str, meant: str) -> None:
    values = json.loads(example().to_json()) | {key: 1}
    with pytest.raises(UnknownNameError, match=meant):
        RunRecord.from_json(json.dumps(values))


def test_unknown_field_of_a_spec_is_refused_with_its_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="learning_rate"):
        RunSpec.from_dict({"learnign_rate": 1e-3})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="record"):
        RunRecord.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("num_train_epochs", -1),
        ("per_device_train_batch_size", 0),
        ("per_device_train_batch_size", 1.5),
        ("num_vectors", 0),
        ("init_noise", -0.1),
        ("weight_decay", float("inf")),
        ("max_train_samples", 0),
        ("seed", -1),
        ("selection_fraction", 1.0),
        ("selection_fraction", -0.1),
        ("torch_dtype", "int8"),
        ("eval_strategy", "sometimes"),
        ("save_strategy", "always"),
        ("logging_steps", 1.5),
        ("eval_steps", 2.5),
        ("save_steps", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(OptionError, match=field):
        replace(RunSpec(), **{field: value})  # type: ignore[arg-type]


def test_the_best_checkpoint_needs_evaluations() -> None:
    with pytest.raises(OptionError, match="eval_strategy"):
        RunSpec(load_best_model_at_end=True, eval_strategy="no")


def test_the_best_checkpoint_is_of_a_step_that_is_scored() -> None:
    best: dict[str, Any] = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    for steps in ({"eval_steps": 3, "save_steps": 5}, {"eval_steps": 0.1, "save_steps": 5}, {"save_steps": 15}):
        with pytest.raises(OptionError, match="a multiple of eval_steps"):
            RunSpec(**best, **steps)
    for steps in ({"eval_steps": 5, "save_steps": 15}, {"eval_steps": 0.1, "save_steps": 0.3}, {"logging_steps": 5}):
        RunSpec(**best, **steps)
        RunSpec(**{**best, **steps, "save_steps": 7, "load_best_model_at_end": False})


@pytest.mark.parametrize(
    ("field", "had"), [("adam_beta1", 0.9), ("dropout", "model"), ("per_device_train_batch_size", 16)]
)
def test_a_record_of_before_says_what_its_run_had(field: str, had: object) -> None:
    values = json.loads(example().to_json())
    assert values["spec"].pop(field) != had  # what is the default now
    assert getattr(RunRecord.from_json(json.dumps(values)).spec, field) == had


def test_read_accepts_the_folder_and_names_what_is_missing(tmp_path: Path) -> None:
    example().write(tmp_path / "record.json")
    assert RunRecord.read(tmp_path) == RunRecord.read(tmp_path / "record.json") == example()
    with pytest.raises(OptionError, match="propulsion train"):
        RunRecord.read(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": None},
        {"metrics": {"validation": {"accuracy": "high"}}},
        {"metrics": [1]},
        {"spec": "lora"},
        {"seconds": {"train": True}},
        {"environment": None},
        {"history": {"loss": ["x"]}},
        {"peak_memory_bytes": "x"},
        {"notes": "x"},
    ],
)
def test_values_of_another_type_are_refused(changes: dict[str, object]) -> None:
    values = {**json.loads(example().to_json()), **changes}
    with pytest.raises(OptionError, match=f"{next(iter(changes))} is of the wrong type"):
        RunRecord.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "key"), [("parameters", "head"), ("seconds", "per_step_median"), ("environment", "threads")]
)
def test_a_record_that_lacks_a_number_is_refused(name: str, key: str) -> None:
    values = json.loads(example().to_json())
    del values[name][key]
    with pytest.raises(OptionError, match=f"lacks {key} in {name}"):
        RunRecord.from_json(json.dumps(values))


def test_numbers_that_were_not_finite_can_be_read_again() -> None:
    record = example(metrics={"validation": {"loss": float("nan")}})
    assert RunRecord.from_json(record.to_json()).metrics == {"validation": {"loss": None}}


def test_brackets_without_end_are_no_json() -> None:
    with pytest.raises(OptionError, match="not JSON"):
        RunRecord.from_json("[" * 100_000)
