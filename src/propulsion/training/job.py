"""A job: a task's data, a model that a method has wrapped, and the trainer that brings them together."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainingArguments, set_seed

from propulsion.errors import DataError
from propulsion.methods import get_method
from propulsion.methods.heads import head_modules
from propulsion.records import RunSpec
from propulsion.tasks import DataSource, Task, TaskData, get_task
from propulsion.tasks.selection import set_aside
from propulsion.training.measure import StepClock
from propulsion.training.models import load_base, load_tokenizer, model_path
from propulsion.training.store import ADAPTER_CONFIG, load_trained, open_adapter
from propulsion.training.trainer import RunTrainer


def resolve(spec: RunSpec) -> RunSpec:
    """Fill in what the spec leaves to the task and to the method.

    Raises:
        UnknownNameError: There is no such task or method; names the near misses.
    """
    task = spec.task or ("text-classification" if spec.data_dir or spec.dataset_name else "docstrings")
    get_task(task)
    method = get_method(spec.method)
    method.check(spec)
    rate = spec.learning_rate or method.learning_rate(spec)
    head_rate = spec.head_learning_rate or method.head_learning_rate
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.model_name_or_path.rstrip("/").rpartition("/")[2])
    folder = spec.output_dir or f"runs/{task}-{spec.method}-{model}-seed{spec.seed}"
    return replace(spec, task=task, learning_rate=rate, head_learning_rate=head_rate, output_dir=folder)


def data_source(spec: RunSpec) -> DataSource:
    """What the spec says about the data."""
    return DataSource(**{item.name: getattr(spec, item.name) for item in dataclasses.fields(DataSource)})


def load_data(spec: RunSpec) -> TaskData:
    """The rows of a resolved spec: train, validation and what else there is, or train and selection alone.

    Raises:
        DataError: The data cannot be trained on.
    """
    data = get_task(str(spec.task)).load(data_source(spec))
    return set_aside(data, spec.selection_fraction) if spec.selection_fraction else data


@dataclass(frozen=True)
class Job:
    """Everything that training and evaluation need."""

    spec: RunSpec
    task: Task
    data: TaskData
    tokenizer: PreTrainedTokenizerBase
    model: nn.Module
    heads: list[str]

    @cached_property
    def encoded(self) -> dict[str, datasets.Dataset]:
        """The splits as token ids with labels."""
        if self.spec.disable_tqdm:
            datasets.disable_progress_bars()
        try:
            return self.task.encode(self.data, self.tokenizer, self.spec.max_length)
        finally:
            datasets.enable_progress_bars()

    @property
    def eval_splits(self) -> list[str]:
        """The splits with scores, the one that is watched while training first."""
        names = [name for name in self.data.splits if name != "train"]
        return sorted(names, key=lambda name: not name.startswith("validation"))


def assemble(spec: RunSpec, task: Task, data: TaskData, trained: Path | None = None) -> Job:
    """Seed, then build: tokenizer, base model with a fresh head, and the method around it.

    Args:
        spec: A resolved spec.
        task: The task of that name.
        data: Its data; only the label names are read.
        trained: A folder with what an earlier run of this spec trained and saved, to be read in.

    Raises:
        ConfigError: The model cannot be had, or a field of the method is wrong.
        AdapterFileError: What was trained is missing, damaged, or of another model.
    """
    set_seed(spec.seed)  # before the head and the adapter are made, or the seed would not decide them
    saved_tokenizer = trained is not None and (trained / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(str(trained) if saved_tokenizer else model_path(spec.model_name_or_path))
    method = get_method(spec.method)
    base, random_modules = load_base(spec, task.auto_class, task.model_kwargs(data) | method.model_kwargs(spec))
    if random_modules:
        wanted = dict.fromkeys((*(spec.modules_to_save or ()), *random_modules))
        spec = replace(spec, modules_to_save=tuple(wanted))
    heads = head_modules(base)
    if trained is not None and (trained / ADAPTER_CONFIG).exists():
        model = open_adapter(base, trained)
    else:
        model = method.build(base, spec, task)
    for parameter in model.parameters():
        if parameter.requires_grad:  # PEFT leaves the head of a bfloat16 model in bfloat16, where small steps are lost
            parameter.data = parameter.data.float()
    if trained is not None:
        load_trained(model, trained)
    return Job(spec, task, data, tokenizer, model, heads)


def make_trainer(job: Job, **overrides: Any) -> RunTrainer:
    """The trainer of a job; it has seeded once more, so that training does not depend on how the model was built.

    Args:
        job: What to train or evaluate.
        **overrides: Fields of `TrainingArguments` that replace the spec's.
    """
    spec, method = job.spec, get_method(job.spec.method)
    evaluated = bool(job.eval_splits) and spec.eval_strategy != "no"
    callbacks = [StepClock(), *method.callbacks(job.model, spec)]
    if spec.early_stopping_patience and evaluated:
        callbacks.append(EarlyStoppingCallback(spec.early_stopping_patience))
    return RunTrainer(
        heads=job.heads,
        head_learning_rate=spec.head_learning_rate,
        method_optimizer=method.optimizer,
        loss_is_mean="Classification" in job.task.auto_class,
        model=job.model,
        args=TrainingArguments(**{**_arguments(job), **overrides}),
        data_collator=job.task.collator(job.tokenizer),
        train_dataset=job.encoded.get("train"),
        eval_dataset=job.encoded[job.eval_splits[0]] if job.eval_splits else None,
        processing_class=job.tokenizer,
        compute_metrics=job.task.metrics(),
        preprocess_logits_for_metrics=_first,
        callbacks=callbacks,
    )


_SAME_NAME = (
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "seed",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "logging_steps",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "disable_tqdm",
    "use_cpu",
)


def _arguments(job: Job) -> dict[str, Any]:
    spec = job.spec
    arguments: dict[str, Any] = {name: getattr(spec, name) for name in _SAME_NAME}
    if not job.eval_splits:
        if spec.load_best_model_at_end or spec.early_stopping_patience or spec.save_strategy == "best":
            raise DataError("Finding the best checkpoint needs a validation split, and the data has none.")
        arguments["eval_strategy"] = "no"
    names = {item.name for item in dataclasses.fields(TrainingArguments)}
    recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    if spec.gradient_checkpointing:
        arguments |= {recompute: True, f"{recompute}_kwargs": {"use_reentrant": False}}
    return arguments | {
        "output_dir": str(Path(spec.output_dir or "runs")),
        "data_seed": spec.seed,
        "bf16": spec.bf16 or spec.torch_dtype == "bfloat16",
        "report_to": list(spec.report_to) if isinstance(spec.report_to, tuple) else spec.report_to,
        "label_names": ["labels"],  # without it, Trainer evaluates PEFT models without labels
        "batch_eval_metrics": True,  # scores are streamed; gathered logits would exhaust the memory
        "metric_for_best_model": job.task.main_metric,
        "greater_is_better": job.task.greater_is_better,
        "logging_nan_inf_filter": False,  # would replace a NaN by the average of the losses before
        "restore_callback_states_from_checkpoint": True,
        "dataloader_pin_memory": torch.cuda.is_available() and not spec.use_cpu,
        "log_level": "warning",
    }


def _first(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """The logits alone, of models that also return hidden states."""
    return logits[0] if isinstance(logits, tuple) else logits
