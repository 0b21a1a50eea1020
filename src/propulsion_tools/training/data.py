"""A task's rows, as they are read and as the base model takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields

import datasets
from torch import nn

from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import DataSource, Setup, Task, TaskData, get_task
from propulsion_tools.tasks.base import EVAL, Encoded, accepted_by
from propulsion_tools.tasks.selection import set_aside
from propulsion_tools.training.processes import is_first


def load_data(spec: RunSpec, training: bool = True) -> TaskData:
    """The rows of a resolved spec: train, validation and what else there is, or train and selection alone.

    Args:
        spec: A resolved spec.
        training: Whether there must be a training split.

    Raises:
        DataError: The data cannot be trained on.
    """
    data = get_task(str(spec.task)).load(_source(spec, training))
    has_rows = training or "train" in data.splits  # other data on which a run is scored may have none to set aside
    if not spec.selection_fraction or not has_rows:
        return data
    return set_aside(data, spec.selection_fraction, spec.max_eval_samples)


class SharedRows:
    """The rows of several runs, which are read once for all those that name the same."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, DataSource, float], TaskData] = {}

    def __call__(self, spec: RunSpec) -> TaskData:
        """As `load_data`, for a run that is trained."""
        key = str(spec.task), _source(spec), spec.selection_fraction
        if key not in self._read:
            self._read[key] = load_data(spec)
        return self._read[key]


def _source(spec: RunSpec, training: bool = True) -> DataSource:
    named = {item.name: getattr(spec, item.name) for item in fields(DataSource) if item.name != "training"}
    return DataSource(**named, training=training)


def encode_splits(spec: RunSpec, task: Task, data: TaskData, setup: Setup, training: bool) -> dict[str, Encoded]:
    """The splits as token ids.

    Args:
        spec: Says whether progress is shown.
        task: The task that the rows are of.
        data: The rows.
        setup: The tokenizer and what else the tokens depend on.
        training: Whether the training split is trained on rather than scored.
    """
    with progress_bars(not spec.disable_tqdm and is_first()):
        return {split: task.encode(rows, setup, training and split == "train") for split, rows in data.splits.items()}


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
