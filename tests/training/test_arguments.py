"""Laws of the way of a run's fields to `TrainingArguments`: none is forgotten, and none comes twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from transformers import TrainingArguments

from propulsion_tools.errors import DataError
from propulsion_tools.records import RUN_FACTS, RunSpec
from propulsion_tools.records.fields import Argument
from propulsion_tools.training.arguments import training_arguments
from propulsion_tools.training.build import build
from propulsion_tools.training.data import load_data
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.trainer import make_trainer

KNOWN = {item.name for item in fields(TrainingArguments)}


def by_way(way: Argument) -> set[str]:
    return {name for name, facts in RUN_FACTS.items() if facts.argument is way}


def test_a_field_that_training_arguments_have_is_passed_or_said_to_be_worked_out() -> None:
    # Its successor replaces a folder that exists as a matter of course; ours refuses, in checkpoints.py.
    assert by_way(Argument.NONE) & KNOWN <= {"overwrite_output_dir"}
    assert by_way(Argument.SAME) <= KNOWN


def test_fields_arrive_under_their_names(make_spec: Callable[..., RunSpec]) -> None:
    changed: dict[str, Any] = {
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "optim": "sgd",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
        "seed": 7,
        "max_steps": 9,
        "per_device_eval_batch_size": 5,
        "gradient_accumulation_steps": 2,
        "logging_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 6,
        "load_best_model_at_end": True,
    }
    spec = resolve(make_spec(**changed, gradient_checkpointing=True, group_by_length=True, bf16=True))
    job = build(spec, load_data(spec))
    arguments = training_arguments(job)
    for name in by_way(Argument.SAME):
        assert getattr(arguments, name) == getattr(spec, name)
    assert arguments.use_cpu
    assert arguments.bf16
    assert arguments.data_seed == 7
    assert training_arguments(job, max_steps=3).max_steps == 3
    alone = replace(job, data=replace(job.data, splits={"train": job.data.splits["train"]}))
    with pytest.raises(DataError, match="validation split"):
        training_arguments(alone)
    follows = replace(alone, spec=make_spec(lr_scheduler_type="reduce_lr_on_plateau"))
    with pytest.raises(DataError, match="reduce_lr_on_plateau needs a validation split"):
        training_arguments(follows)
    assert training_arguments(follows, eval_strategy="no").eval_strategy == "no"  # of a finished run


def test_whole_numbers_of_a_file_arrive_as_the_floats_that_they_stand_for(make_spec: Callable[..., RunSpec]) -> None:
    spec = resolve(make_spec(adam_beta1=0, weight_decay=0))
    trainer = make_trainer(build(spec, load_data(spec)))
    assert isinstance(trainer.args.weight_decay, float)
    assert trainer.create_optimizer().defaults["betas"] == (0.0, 0.999)  # an integer is refused here


@pytest.mark.parametrize(
    ("method", "optim", "given", "momentum"),
    [
        ("propulsion", "adamw_torch", None, 0.0),
        ("propulsion-attn", "paged_adamw_8bit", None, 0.0),
        ("propulsion", "adamw_torch", 0.9, 0.9),
        ("propulsion", "schedule_free_adamw", None, 0.9),  # where it weighs an average
        ("propulsion", "sgd", None, 0.9),
        ("lora", "adamw_torch", None, 0.0),
        ("ia3", "adamw_torch_fused", None, 0.0),
        ("bitfit", "adamw_torch", None, 0.9),
        ("lora", "adamw_torch", 0, 0.0),
    ],
)
def test_adamw_has_the_momentum_that_suits_the_method(
    method: str, optim: str, given: float | None, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("propulsion_tools.training.resolve.check_packages", lambda spec, task: None)
    assert resolve(RunSpec(method=method, optim=optim, adam_beta1=given)).adam_beta1 == momentum
