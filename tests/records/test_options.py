"""Laws of the commands' options: what is a run's is borrowed from it, and each command has what it may override."""

from __future__ import annotations

from dataclasses import fields
from types import NoneType
from typing import Any, get_args

import pytest

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RUN_FACTS, RunSpec, options
from propulsion_tools.records.fields import borrowed_fields, hints
from propulsion_tools.records.options import EvaluateOptions, PredictOptions, RegressionOptions
from propulsion_tools.records.run_spec import EVALUATE, PREDICT, REGRESS

CLASSES = [item for name, item in vars(options).items() if name.endswith("Options")]
# Like a run's fields by name, but not the same: a list of tasks, the folder of a grid, what a list is
# narrowed to, and a limit of all requests.
OWN = {
    ("AblateOptions", "task"),
    ("AblateOptions", "output_dir"),
    ("CompareOptions", "output_dir"),
    ("RecipesOptions", "task"),
    ("ServeOptions", "max_new_tokens"),
    ("RecipesOptions", "method"),
}


def parts(hint: Any) -> set[Any]:
    return set(get_args(hint) or (hint,))


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_named_like_a_field_of_a_run_is_that_field(cls: type) -> None:
    shared = {item.name for item in fields(cls)} & {item.name for item in fields(RunSpec)}
    assert shared - set(borrowed_fields(cls)) == {name for owner, name in OWN if owner == cls.__name__}
    for item in fields(cls):
        assert item.metadata["help"]
        if item.name in borrowed_fields(cls):
            assert item.metadata["values"] is RunSpec.__dataclass_fields__[item.name].metadata["values"]
            assert parts(hints(cls)[item.name]) <= parts(hints(RunSpec)[item.name]) | {NoneType}


@pytest.mark.parametrize(
    ("command", "cls", "not_an_override"),
    [
        (EVALUATE, EvaluateOptions, set()),
        (PREDICT, PredictOptions, {"disable_tqdm"}),
        (REGRESS, RegressionOptions, set()),
    ],
)
def test_a_command_has_what_it_may_override(command: str, cls: type, not_an_override: set[str]) -> None:
    overridable = {name for name, facts in RUN_FACTS.items() if command in facts.override}
    assert set(borrowed_fields(cls)) == overridable | not_an_override


@pytest.mark.parametrize(
    ("cls", "changes"),
    [
        (options.EvaluateOptions, {"per_device_eval_batch_size": 0}),
        (options.PredictOptions, {"per_device_eval_batch_size": 0}),
        (options.PredictOptions, {"null_score_diff_threshold": float("nan")}),
        (options.DemoOptions, {"max_train_samples": 0}),
        (options.NtkOptions, {"num_samples": 1}),
        (options.NtkOptions, {"steps": -1}),
        (options.NtkOptions, {"memory": 0}),
        (options.JacobianOptions, {"steps": 0}),
        (options.CompareOptions, {"jobs": 0}),
        (options.AblateOptions, {"num_train_epochs": 0}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(cls: type, changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(changes))} must be"):
        cls(**changes)


def test_options_that_are_right_are_taken() -> None:
    for cls in CLASSES:
        cls()
    assert options.NtkOptions(steps=0, num_samples=2).steps == 0
    assert options.AblateOptions(task=["sst2"], seeds=[1, 2]).seeds == (1, 2)  # type: ignore[arg-type]
