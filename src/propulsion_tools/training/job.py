"""A job: a task's data, a model that a method has wrapped, and the trainer that brings them together."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_xla_available

from propulsion.heads import head_modules
from propulsion_tools.errors import DataError, OptionError, near_misses
from propulsion_tools.methods import get_method
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import DataSource, ModelKind, Setup, Task, TaskData, get_task
from propulsion_tools.tasks.base import EVAL, Lengths, Metrics, accepted_by
from propulsion_tools.tasks.selection import set_aside
from propulsion_tools.training.base_models import (
    check_lengths,
    dropouts,
    load_base,
    load_config,
    load_tokenizer,
    model_path,
)
from propulsion_tools.training.measure import StepClock
from propulsion_tools.training.processes import is_first
from propulsion_tools.training.trained_files import ADAPTER_CONFIG, load_trained, open_adapter
from propulsion_tools.training.trainer import RunTrainer, SpecKeeper


def resolve(spec: RunSpec) -> RunSpec:
    """Fill in what the spec leaves to the task and to the method.

    Raises:
        UnknownNameError: There is no such task or method; names the near misses.
    """
    task = spec.task or ("text-classification" if spec.data_dir or spec.dataset_name else "docstrings")
    lengths = dataclasses.asdict(get_task(task).lengths)
    lengths = {name: value for name, value in lengths.items() if getattr(spec, name) is None}
    method = get_method(spec.method)
    method.check(spec)
    _check_names(spec)
    spec = replace(spec, **method.fixed)
    rate = spec.learning_rate or method.learning_rate(spec)
    head_rate = spec.head_learning_rate or method.head_learning_rate
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.model_name_or_path.rstrip("/").rpartition("/")[2])
    folder = spec.output_dir or f"runs/{task}-{spec.method}-{model}-seed{spec.seed}"
    return replace(spec, task=task, learning_rate=rate, head_learning_rate=head_rate, output_dir=folder, **lengths)


def _check_names(spec: RunSpec) -> None:
    """What transformers would refuse, but only after data and weights are read."""
    for name, kinds in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        value, there = getattr(spec, name), [str(kind.value) for kind in kinds]
        if value not in there:
            hint = near_misses(value, there) or f" There are {', '.join(there)}."
            raise OptionError(f"There is no {name} {value!r}.{hint}")


def check_device(spec: RunSpec) -> None:
    """Refuse what the device cannot train.

    Raises:
        OptionError: float16 on the CPU.
    """
    if spec.torch_dtype == "float16" and _uses_cpu(spec):
        raise OptionError("torch_dtype float16 trains on an accelerator only: use bfloat16 or float32 on the CPU.")


def _uses_cpu(spec: RunSpec) -> bool:
    return spec.use_cpu or not (torch.accelerator.is_available() or is_torch_xla_available())


def data_source(spec: RunSpec, training: bool = True) -> DataSource:
    """What the spec says about the data.

    Args:
        spec: A resolved spec.
        training: Whether there must be a training split.
    """
    named = {item.name: getattr(spec, item.name) for item in dataclasses.fields(DataSource) if item.name != "training"}
    return DataSource(**named, training=training)


def load_data(spec: RunSpec, training: bool = True) -> TaskData:
    """The rows of a resolved spec: train, validation and what else there is, or train and selection alone.

    Args:
        spec: A resolved spec.
        training: Whether there must be a training split.

    Raises:
        DataError: The data cannot be trained on.
    """
    data = get_task(str(spec.task)).load(data_source(spec, training))
    return set_aside(data, spec.selection_fraction) if spec.selection_fraction else data


@dataclass(frozen=True)
class Job:
    """Everything that training and evaluation need.

    Attributes:
        encoded: The splits as token ids.
        heads: Names of the base model's modules that make up the head.
        notes: What was guessed, cut or left out.
    """

    spec: RunSpec
    task: Task
    kind: ModelKind
    data: TaskData
    setup: Setup
    encoded: dict[str, datasets.Dataset]
    model: nn.Module
    heads: list[str]
    notes: tuple[str, ...]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the base model."""
        return self.setup.tokenizer

    @property
    def eval_splits(self) -> list[str]:
        """The splits with scores, the one that is watched while training first."""
        names = [name for name in self.data.splits if name != "train"]
        return sorted(names, key=lambda name: not name.startswith("validation"))

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision in which the spec computes."""
        dtype = torch.float16 if self.spec.torch_dtype == "float16" else torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.spec.bf16 or self.spec.torch_dtype != "float32")


def assemble(spec: RunSpec, task: Task, data: TaskData, trained: Path | None = None, training: bool = True) -> Job:
    """Everything that can be refused first, then the weights: tokens, base model with a fresh head, the method.

    Args:
        spec: A resolved spec.
        task: The task of that name.
        data: Its data.
        trained: A folder with what an earlier run of this spec trained and saved, to be read in.
        training: Whether the training split is trained on rather than scored.

    Raises:
        OptionError: The model cannot be had or does not fit the task, or a field of the method is wrong.
        DataError: No row fits the model.
        AdapterFileError: What was trained is missing, damaged, or of another model.
    """
    setup = prepare(spec, data, trained)
    kind = task.model_kind(setup.config)
    check_lengths(setup, kind)
    encoded = {}
    with progress_bars(not spec.disable_tqdm and is_first()):
        for split, rows in data.splits.items():
            encoded[split] = task.encode(rows, setup, training and split == "train")
    set_seed(spec.seed)  # before the head and the adapter are made, or the seed would not decide them
    wanted = task.model_kwargs(data.label_names) | dropouts(setup.config, spec.dropout)
    base, random_modules = load_base(spec, kind, wanted, setup.tokenizer)
    if random_modules:
        whole = dict.fromkeys((*(spec.modules_to_save or ()), *random_modules))
        spec = replace(spec, modules_to_save=tuple(whole))
    heads = head_modules(base)
    model = _with_method(base, spec, kind, trained)
    notes = (*data.notes, *dict.fromkeys(note for part in encoded.values() for note in part.notes))
    splits = {split: for_model(part.rows, base) for split, part in encoded.items()}
    return Job(spec, task, kind, data, setup, splits, model, heads, notes)


def prepare(spec: RunSpec, data: TaskData, trained: Path | None = None) -> Setup:
    """The tokenizer and the configuration of the base model, before any weight is read.

    Raises:
        OptionError: They cannot be had.
    """
    path = model_path(spec.model_name_or_path)
    saved = trained is not None and (trained / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(str(trained) if saved else path)
    lengths = Lengths(**{item.name: getattr(spec, item.name) for item in dataclasses.fields(Lengths)})
    return Setup(tokenizer, load_config(path), lengths, data.label_names, spec.null_score_diff_threshold)


def _with_method(base: PreTrainedModel, spec: RunSpec, kind: ModelKind, trained: Path | None) -> nn.Module:
    if trained is not None and (trained / ADAPTER_CONFIG).exists():
        model = open_adapter(base, trained)
    else:
        model = get_method(spec.method).build(base, spec, kind)
    for parameter in model.parameters():
        if parameter.requires_grad:  # PEFT leaves the head of a bfloat16 model in bfloat16, where small steps are lost
            parameter.data = parameter.data.float()
    if trained is not None:
        load_trained(model, trained)
    return model


def for_model(rows: datasets.Dataset, model: nn.Module) -> datasets.Dataset:
    """Encoded rows without the columns that this model's forward does not take, such as token types."""
    taken = accepted_by(model)
    return rows.select_columns([name for name in rows.column_names if name in taken or name.startswith(EVAL)])


@contextlib.contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Whether `datasets` shows what it does."""
    if not shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def make_trainer(job: Job, **overrides: Any) -> RunTrainer:
    """The trainer of a job; it has seeded once more, so that training does not depend on how the model was built.

    Args:
        job: What to train or evaluate.
        **overrides: Fields of `TrainingArguments` that replace the spec's.
    """
    spec, method = job.spec, get_method(job.spec.method)
    evaluated = bool(job.eval_splits) and spec.eval_strategy != "no"
    callbacks = [StepClock(), SpecKeeper(spec), *method.callbacks(job.model, spec)]
    if spec.early_stopping_patience and evaluated:
        callbacks.append(EarlyStoppingCallback(spec.early_stopping_patience))
    return RunTrainer(
        heads=job.heads,
        head_learning_rate=spec.head_learning_rate,
        method_optimizer=method.optimizer,
        task=job.task,
        setup=job.setup,
        loss_is_mean=job.kind.loss_is_mean,
        model=job.model,
        args=TrainingArguments(**{**_arguments(job), **overrides}),
        data_collator=job.task.collator(job.setup),
        train_dataset=job.encoded.get("train"),
        eval_dataset=job.encoded[job.eval_splits[0]] if job.eval_splits else None,
        processing_class=job.tokenizer,
        compute_metrics=split_metrics(job, job.eval_splits[0]) if job.eval_splits else None,
        callbacks=callbacks,
    )


def split_metrics(job: Job, split: str) -> Metrics:
    """A fresh accumulator of a split's scores."""
    return job.task.metrics(job.data.splits[split], job.setup)


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
)


def _arguments(job: Job) -> dict[str, Any]:
    spec = job.spec
    arguments: dict[str, Any] = {name: getattr(spec, name) for name in _SAME_NAME}
    if not job.eval_splits:
        if spec.load_best_model_at_end or spec.early_stopping_patience or spec.save_strategy == "best":
            raise DataError("Finding the best checkpoint needs a validation split, and the data has none.")
        arguments["eval_strategy"] = "no"
    names = {item.name for item in dataclasses.fields(TrainingArguments)}
    if spec.group_by_length:
        sampling = {"train_sampling_strategy": "group_by_length"}
        arguments |= sampling if "train_sampling_strategy" in names else {"group_by_length": True}
    recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    if spec.gradient_checkpointing:
        arguments |= {recompute: True, f"{recompute}_kwargs": {"use_reentrant": False}}
    return arguments | {
        "output_dir": str(Path(spec.output_dir or "runs")),
        "data_seed": spec.seed,
        # transformers refuses bf16 on the CPU unless it is asked for, also where there is nothing else.
        "use_cpu": _uses_cpu(spec),
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
