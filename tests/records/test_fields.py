"""Laws of options: each says all that is known about it, and what is derived from that is what it was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import partial
from typing import Any

import pytest

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RUN_FACTS, RunSpec
from propulsion_tools.records.fields import (
    ABOVE_ZERO_OR_AUTO,
    ANY,
    AT_LEAST_ONE,
    Argument,
    Checked,
    borrow,
    borrowed_fields,
    facts_of,
    one_of,
    option,
    run_option,
    type_text,
)
from propulsion_tools.records.options import EvaluateOptions
from propulsion_tools.records.run_spec import EVALUATE, PREDICT, REGRESS

SAID: dict[str, Any] = {
    "group": "data",
    "identity": True,
    "may_change": False,
    "argument": Argument.NONE,
    "override": (),
}


def a_class(kind: type, item: Any) -> type:
    return make_dataclass("Spec", [("new", kind, item)])


@pytest.mark.parametrize("left_out", SAID)
def test_a_field_that_is_silent_on_one_fact_is_refused(left_out: str) -> None:
    said = {name: value for name, value in SAID.items() if name != left_out}
    with pytest.raises(TypeError, match=left_out):
        run_option(1, "help", AT_LEAST_ONE, **said)


def test_a_field_that_says_nothing_is_refused() -> None:
    for item in (3, option("data", 3, "help", AT_LEAST_ONE)):
        with pytest.raises(TypeError, match=r"Spec\.new does not say"):
            facts_of(a_class(int, item))


@pytest.mark.parametrize("kind", [int, float, int | None, "float | None"])
def test_a_number_without_a_bound_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"Spec\.new is a number"):
        facts_of(a_class(kind, run_option(1, "help", ANY, **SAID)))
    facts = facts_of(a_class(kind, run_option(1, "help", AT_LEAST_ONE, **SAID)))
    assert facts["new"].identity


def test_every_field_of_a_run_says_everything() -> None:
    assert list(RUN_FACTS) == [item.name for item in fields(RunSpec)]
    assert facts_of(RunSpec) == RUN_FACTS
    assert all(item.metadata["help"] for item in fields(RunSpec))


def names(of: Any) -> set[str]:
    return {name for name, facts in RUN_FACTS.items() if of(facts)}


def test_where_files_go_and_what_is_shown_is_no_identity() -> None:
    assert names(lambda facts: not facts.identity) == {
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "disable_tqdm",
        "report_to",
        "joint",
    }


def test_what_neither_the_optimizer_nor_the_order_of_rows_depends_on_may_change() -> None:
    where = "output_dir overwrite_output_dir resume_from_checkpoint device_map use_cpu disable_tqdm report_to"
    where += " joint"
    how_long = "num_train_epochs max_steps early_stopping_patience"
    how = "attn_implementation gradient_checkpointing per_device_train_batch_size gradient_accumulation_steps"
    scored = "eval_strategy eval_steps per_device_eval_batch_size max_eval_samples forgetting_text"
    saved = "save_strategy save_steps save_total_limit load_best_model_at_end logging_steps modules_to_save"
    answered = "max_new_tokens num_beams null_score_diff_threshold"
    expected = " ".join((where, how_long, how, scored, saved, answered)).split()
    assert names(lambda facts: facts.may_change) == set(expected)


def test_what_commands_may_override() -> None:
    answers = {"text_column", "text_pair_column", "max_new_tokens", "num_beams", "null_score_diff_threshold"}
    answers |= {"max_length", "model_name_or_path"}
    rows = {"task", "data_dir", "dataset_name", "dataset_config_name", "label_column", "max_eval_samples"}
    assert names(lambda facts: PREDICT in facts.override) == answers | {"per_device_eval_batch_size", "use_cpu"}
    where = {"model_name_or_path", "data_dir", "dataset_name", "dataset_config_name"}
    assert names(lambda facts: REGRESS in facts.override) == where | {"max_eval_samples", "disable_tqdm", "use_cpu"}
    assert names(lambda facts: EVALUATE in facts.override) == answers | rows | {
        "per_device_eval_batch_size",
        "disable_tqdm",
        "use_cpu",
    }


def test_choices_are_those_of_the_method() -> None:
    from propulsion.config import INITIALIZATIONS
    from propulsion.pooling import POOLINGS

    choices = {item.name: item.metadata["values"].choices for item in fields(RunSpec)}
    assert choices["pooling"] == POOLINGS
    assert choices["init_weights"] == ("true", "false", *INITIALIZATIONS)
    for wrong in ({"pooling": "avg"}, {"init_weights": 1}, {"init_weights": "true"}):
        with pytest.raises(OptionError, match="must be one of"):
            RunSpec(**wrong)
    assert RunSpec(init_weights=False).init_weights is False


def test_what_a_grid_says_elsewhere() -> None:
    assert names(lambda facts: facts.elsewhere) == {
        "learning_rate",
        "seed",
        "selection_fraction",
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "joint",
        "smoke",
    }


def test_what_is_not_given_stays_as_the_run_had_it() -> None:
    spec = RunSpec(data_dir="rows", num_beams=3)
    assert spec.overridden(EVALUATE, EvaluateOptions()) == spec
    assert spec.overridden(EVALUATE, EvaluateOptions(num_beams=2)) == replace(spec, num_beams=2)


@pytest.mark.parametrize(
    ("before", "given"),
    [
        ({"data_dir": "rows"}, {"dataset_name": "glue", "dataset_config_name": "sst2"}),
        ({"dataset_name": "glue", "dataset_config_name": "sst2"}, {"data_dir": "rows"}),
    ],
)
def test_one_source_of_rows_replaces_the_other(before: dict[str, Any], given: dict[str, Any]) -> None:
    assert RunSpec(**before).overridden(EVALUATE, EvaluateOptions(**given)) == RunSpec(**given)


borrowed = partial(borrow, RunSpec)


@dataclass(frozen=True)
class Borrower(Checked):
    """Has a field of its own, and three of a run's."""

    own: str | None = option("options", "a", "help", one_of("alpha", "beta", "a"))
    max_length: int | None = borrowed("max_length")
    learning_rate: float | None = borrowed("learning_rate", default=1e-3, text="other help")
    seeds: tuple[int, ...] = option("options", (1,), "help")


def test_a_borrowed_field_brings_its_values_default_and_help() -> None:
    metadata = {item.name: item.metadata for item in fields(Borrower)}
    run = {item.name: item.metadata for item in fields(RunSpec)}
    assert borrowed_fields(Borrower) == ["max_length", "learning_rate"]
    assert metadata["max_length"]["help"] == run["max_length"]["help"]
    assert metadata["learning_rate"]["help"] == "other help"
    assert metadata["learning_rate"]["values"] is ABOVE_ZERO_OR_AUTO
    assert Borrower() == Borrower("a", None, 1e-3, (1,))
    with pytest.raises(StopIteration):
        borrowed("max_lenght")


def test_values_are_checked_as_soon_as_there_are_options() -> None:
    for changes in ({"max_length": 0}, {"learning_rate": -1.0}, {"max_length": True}):
        with pytest.raises(OptionError, match=next(iter(changes))):
            Borrower(**changes)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"own must be one of alpha, beta, a, and not 'bata'\. Did you mean 'beta'\?"):
        Borrower(own="bata")
    assert Borrower(own=None, learning_rate=None, seeds=[1, 2]).seeds == (1, 2)  # type: ignore[arg-type]


def test_none_is_refused_where_the_type_has_none() -> None:
    with pytest.raises(OptionError, match="weight_decay"):
        RunSpec(weight_decay=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"), [("seed", "int"), ("max_length", "int | None"), ("degree", "int | tuple[int, ...]")]
)
def test_a_type_is_told_as_it_is_written(name: str, text: str) -> None:
    assert type_text(RunSpec, name) == text


def test_records_need_the_standard_library_alone() -> None:
    code = (
        "import sys, propulsion_tools.records, propulsion_tools.records.options\n"
        "names = {name.partition('.')[0] for name in sys.modules} - before - set(sys.stdlib_module_names)\n"
        "sys.exit(' '.join(sorted(names - {'propulsion_tools'})) or 0)"
    )
    code = "import sys; before = {name.partition('.')[0] for name in sys.modules}\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
