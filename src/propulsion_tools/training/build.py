"""A job: a task's data as tokens, and a base model that a method has wrapped."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import datasets
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from propulsion.heads import head_modules
from propulsion_tools.methods import get_method
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import ModelKind, Setup, Task, TaskData, get_task
from propulsion_tools.tasks.base import Lengths, Metrics
from propulsion_tools.training.base_models import (
    check_lengths,
    dropouts,
    load_base,
    load_config,
    load_tokenizer,
    model_path,
    new_head_note,
)
from propulsion_tools.training.data import encode_splits, for_model
from propulsion_tools.training.forgetting import check_forgetting
from propulsion_tools.training.trained_files import ADAPTER_CONFIG, load_trained, open_adapter


@dataclass(frozen=True)
class Job:
    """Everything that training and evaluation need.

    Attributes:
        encoded: The splits as token ids.
        heads: Names of the base model's modules that make up the head.
        fresh_heads: Those of them that the checkpoint does not have, or has in another size.
        fresh: Names of all modules that it does not have, of the head and of the backbone.
        notes: What was cut or left out of the splits and of the base model, beside the notes of the data itself.
    """

    spec: RunSpec
    task: Task
    kind: ModelKind
    data: TaskData
    setup: Setup
    encoded: dict[str, datasets.Dataset]
    model: nn.Module
    heads: list[str]
    fresh_heads: tuple[str, ...]
    fresh: tuple[str, ...]
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

    def metrics(self, split: str) -> Metrics:
        """A fresh accumulator of a split's scores."""
        return self.task.metrics(self.data.splits[split], self.setup)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision in which the spec computes."""
        dtype = torch.float16 if self.spec.torch_dtype == "float16" else torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.spec.bf16 or self.spec.torch_dtype != "float32")


def build(spec: RunSpec, data: TaskData, trained: Path | None = None, training: bool = True) -> Job:
    """Everything that can be refused first, then the weights: tokens, base model with a fresh head, the method.

    Args:
        spec: A resolved spec.
        data: The rows of its task.
        trained: A folder with what an earlier run of this spec trained and saved, to be read in.
        training: Whether the training split is trained on rather than scored.

    Raises:
        OptionError: The model cannot be had or does not fit the task, or a field of the method is wrong.
        DataError: No row fits the model.
        AdapterFileError: What was trained is missing, damaged, or of another model.
    """
    task = get_task(str(spec.task))
    setup = _setup(spec, data, trained)
    kind = task.model_kind(setup.config)
    check_lengths(setup, kind)
    check_forgetting(spec, kind)
    encoded = encode_splits(spec, task, data, setup, training)
    set_seed(spec.seed)  # before the head and the adapter are made, or the seed would not decide them
    wanted = task.model_kwargs(data.label_names) | dropouts(setup.config, spec.dropout)
    base, fresh_heads, fresh_backbone = load_base(spec, kind, wanted, setup.tokenizer)
    if fresh_backbone:
        whole = dict.fromkeys((*(spec.modules_to_save or ()), *fresh_backbone))
        spec = replace(spec, modules_to_save=tuple(whole))
    heads, fresh = head_modules(base), (*fresh_heads, *fresh_backbone)
    model = _with_method(base, spec, kind, trained)
    new_head = new_head_note(spec.model_name_or_path, setup.config, wanted)
    cut = (note for part in encoded.values() for note in part.notes)
    notes = tuple(dict.fromkeys([*([new_head] if new_head else []), *cut]))
    splits = {split: for_model(part.rows, base) for split, part in encoded.items()}
    return Job(spec, task, kind, data, setup, splits, model, heads, fresh_heads, fresh, notes)


def _setup(spec: RunSpec, data: TaskData, trained: Path | None) -> Setup:
    """The tokenizer and the configuration of the base model, before any weight is read."""
    path = model_path(spec.model_name_or_path)
    saved = trained is not None and (trained / "tokenizer_config.json").exists()
    tokenizer = load_tokenizer(str(trained) if saved else path)
    lengths = Lengths(**{item.name: getattr(spec, item.name) for item in fields(Lengths)})
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
