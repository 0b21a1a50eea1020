"""From a job to the `TrainingArguments` of transformers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from propulsion_tools.errors import DataError
from propulsion_tools.records import RUN_FACTS, RunSpec
from propulsion_tools.records.fields import Argument
from propulsion_tools.training.build import Job
from propulsion_tools.training.device import uses_cpu


def training_arguments(job: Job, **overrides: Any) -> TrainingArguments:
    """The arguments that a job is trained and evaluated with.

    Args:
        job: What to train or evaluate.
        **overrides: Fields that replace the spec's.

    Raises:
        DataError: The best checkpoint is asked for, or a schedule that follows the score, without a split to score.
    """
    spec, usual = job.spec, RunSpec()
    same = {name: getattr(spec, name) for name, facts in RUN_FACTS.items() if facts.argument is Argument.SAME}
    # A file may say 0 for 0.0, which torch does not take for one of AdamW's βs.
    floats = {name: float(value) for name, value in same.items() if isinstance(getattr(usual, name), float)}
    arguments = {**same, **floats, **_named_by_release(job), **_derived(job), **overrides}
    if arguments["eval_strategy"] != "no" and not job.eval_splits:
        if spec.load_best_model_at_end or spec.early_stopping_patience or spec.save_strategy == "best":
            raise DataError("Finding the best checkpoint needs a validation split, and the data has none.")
        if spec.follows_score:
            raise DataError("The schedule reduce_lr_on_plateau needs a validation split, and the data has none.")
        arguments["eval_strategy"] = "no"
    if arguments["eval_strategy"] == "no" and spec.follows_score:  # where a finished run is scored
        arguments |= {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": None}
    return TrainingArguments(**arguments)


def _named_by_release(job: Job) -> dict[str, Any]:
    """What the releases of transformers call by different names."""
    names = {item.name for item in fields(TrainingArguments)}
    arguments: dict[str, Any] = {}
    if job.spec.group_by_length:
        sampling: dict[str, Any] = {"train_sampling_strategy": "group_by_length"}
        arguments |= sampling if "train_sampling_strategy" in names else {"group_by_length": True}
    if job.spec.gradient_checkpointing:
        recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
        arguments |= {recompute: True, f"{recompute}_kwargs": {"use_reentrant": False}}
    return arguments


def _derived(job: Job) -> dict[str, Any]:
    """What depends on several fields of the spec or on the task, and what is the same for every run."""
    spec = job.spec
    return {
        "output_dir": str(Path(spec.output_dir or "runs")),
        "data_seed": spec.seed,
        # transformers refuses bf16 on the CPU unless it is asked for, also where there is nothing else.
        "use_cpu": uses_cpu(spec),
        "bf16": spec.bf16 or spec.torch_dtype == "bfloat16",
        "fp16": spec.torch_dtype == "float16",
        "report_to": list(spec.report_to) if isinstance(spec.report_to, tuple) else spec.report_to,
        "remove_unused_columns": False,  # the job has done so, and what the task scores with stays
        "batch_eval_metrics": True,  # scores are streamed; gathered logits would exhaust the memory
        "metric_for_best_model": job.task.main_metric,
        "greater_is_better": job.task.greater_is_better,
        "logging_nan_inf_filter": False,  # would replace a NaN by the average of the losses before
        "restore_callback_states_from_checkpoint": True,
        "dataloader_pin_memory": torch.cuda.is_available() and not spec.use_cpu,
        "log_level": "warning",
    }
