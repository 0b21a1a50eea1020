"""What a task is: where its rows come from, how they become tensors, and how predictions are scored and read.

A run asks a task, in this order: `load` the rows, name the `model_kind` (or refuse the model) before any weight is
read, `encode` the rows, `collator`; then, batch by batch, `answer`; and what `metrics` or `decode` make of the answers.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.tasks.model_kinds import ModelKind

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from propulsion_tools.tasks.raw_tables import RawSplits

Batch = Mapping[str, Any]
"""Tensors by name. Names that begin with ``eval_`` are for `Task.answer`, all others are the model's arguments."""

EVAL = "eval_"
INDEX = "eval_index"
"""The row of the split that an encoded row is from, (batch,), int64; several may come from one."""


@dataclass(frozen=True)
class DataSource:
    """Where a task's rows come from: a folder, a data set on the hub, or neither (the task's own default).

    Args:
        data_dir: Folder with one file per split.
        dataset_name: Data set id on the hub.
        dataset_config_name: Configuration of the hub's data set.
        text_column: Column with the text; None: guessed, and the guess is in the notes.
        text_pair_column: Column with the second text of a pair.
        label_column: Column with the label.
        max_train_samples: Keep at most this many rows of the training split.
        max_eval_samples: Keep at most this many rows of each other split.
        seed: Decides which rows are kept.
        training: Whether there must be a training split; what is only scored needs none.

    Raises:
        OptionError: Both a folder and a hub id are given, or a number of rows is below 1.
    """

    data_dir: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    seed: int = 42
    training: bool = True

    def __post_init__(self) -> None:
        if self.data_dir is not None and self.dataset_name is not None:
            raise OptionError(
                "data_dir and dataset_name are both given: the rows come from one of them, drop the other."
            )
        if self.dataset_config_name is not None and self.data_dir is not None:
            raise OptionError("dataset_config_name is a configuration of a hub data set: it does not go with data_dir.")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, not {value}; leave it out to keep every row.")


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    Args:
        splits: "train", "validation" and what else there is, in the columns of the family.
        label_names: Names of the label ids; None where there are none.
        notes: What was guessed or decided on the way, one sentence each, for the user.
        columns: The raw columns that were read as ``text_column`` and ``text_pair_column`` (text classification).
        label_column: The raw column that the label was read from; None where the family has no such column.
    """

    splits: Mapping[str, Dataset]
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    label_column: str | None = None


@dataclass(frozen=True)
class Lengths:
    """How much is read and written, in tokens.

    Args:
        max_length: Longest input; for decoders, with the target.
        max_target_length: Longest target of an encoder-decoder.
        doc_stride: Overlap of the windows of a context that is longer than an input.
        max_new_tokens: Longest answer that is generated.
        num_beams: Beams of the generation; 1 is greedy.
    """

    max_length: int = 128
    max_target_length: int = 128
    doc_stride: int = 64
    max_new_tokens: int = 64
    num_beams: int = 1


@dataclass(frozen=True)
class Setup:
    """What the tensors of a task depend on beside its rows.

    Args:
        tokenizer: The base model's, with a padding token, padding on the right.
        config: The base model's configuration.
        lengths: How much is read and written.
        label_names: Names of the label ids; None where there are none.
        null_score_diff_threshold: A question is left without an answer if "no answer" is better than the best span by
            more than this.
    """

    tokenizer: Any
    config: Any
    lengths: Lengths = field(default_factory=Lengths)
    label_names: tuple[str, ...] | None = None
    null_score_diff_threshold: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """A split as token ids.

    Args:
        rows: Not padded; one or more for each row of the split.
        notes: What was cut or left out, one sentence each, for the user.
    """

    rows: Dataset
    notes: tuple[str, ...] = ()


class Metrics(Protocol):
    """Accumulates the answers of a split batch by batch; see ``batch_eval_metrics`` of `TrainingArguments`."""

    @property
    def scored(self) -> Mapping[str, np.ndarray]:
        """``labels`` and ``answers``, or scores by name, one per row scored last; empty where none are kept."""

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, an ``EvalPrediction``; the scores of all of them with the last, and nothing before."""


class Task(ABC):
    """One thing to train for. A family of tasks is one class; a named data set is one instance of it."""

    name: str
    description: str
    main_metric: str
    greater_is_better: bool
    lengths: Lengths = Lengths()
    hub_id: str | None = None
    """The data set on the hub that is read where the user names no source."""
    default: Callable[[], RawSplits] | None = None
    """Makes the rows where the user names no source, rather than the hub."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What it scores with, of the extra ``train``."""
    references: str = "labels"
    """The column that `metrics` gets as ``label_ids``: the labels, or `INDEX` to look references up in the rows."""

    @abstractmethod
    def load(self, source: DataSource) -> TaskData:
        """Read, check and sample the rows; raises DataError with what to do, and then nothing is loaded."""

    @abstractmethod
    def unlabelled(
        self, rows: Sequence[Mapping[str, Any]], text_column: str | None = None, text_pair_column: str | None = None
    ) -> Dataset:
        """Rows to predict for, in the columns of `load` but without what is to be predicted."""

    def from_line(self, line: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """A row to predict for from a line of text.

        Args:
            line: The text.
            columns: The columns that the run has read, as in `TaskData`.

        Raises:
            DataError: A row is more than a text; says how to give it.
        """
        return {"text": line}

    @abstractmethod
    def toy(self) -> TaskData:
        """A few rows made up here, in the columns of `load`, to try a model on without any data."""

    @abstractmethod
    def model_kind(self, config: Any) -> ModelKind:
        """The kind of model that this task makes of a checkpoint; raises OptionError where it cannot make any."""

    def model_kwargs(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """What ``from_pretrained`` needs to know of the data, for example ``num_labels``."""
        return {}

    @abstractmethod
    def encode(self, rows: Dataset, setup: Setup, training: bool) -> Encoded:
        """Rows as token ids, not padded, with what the loss needs where they are labelled.

        Without `training` they carry beside it, under names that begin with ``eval_``, what `answer` needs; `INDEX`
        always.
        """

    @abstractmethod
    def collator(self, setup: Setup) -> Callable[[list[dict[str, Any]]], Batch]:
        """Puts encoded rows together, padded to the longest of the batch."""

    def arguments(self, model: Any, batch: Batch) -> dict[str, Any]:
        """What the model's forward is called with, to compute the loss of a batch."""
        return forward_arguments(batch)

    def answer(self, model: Any, batch: Batch, setup: Setup, outputs: Any = None) -> Any:
        """What is kept of a batch to be scored and read: logits here, generated tokens or likelihoods elsewhere.

        Args:
            model: In evaluation mode.
            batch: From `collator`, on the model's device.
            setup: As for `encode`.
            outputs: The model's, where it has read this batch already (to compute its loss).

        Returns:
            A tensor, or a tuple of tensors, of shape (batch, ...).
        """
        outputs = model(**forward_arguments(batch)) if outputs is None else outputs
        return outputs.logits

    @abstractmethod
    def metrics(self, rows: Dataset, setup: Setup) -> Metrics:
        """A fresh accumulator for ``Trainer(compute_metrics=...)`` under ``batch_eval_metrics=True``.

        Args:
            rows: The split that is scored, as `load` gave it; `INDEX` counts its rows.
            setup: As for `encode`.
        """

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """The scores that the most frequent answer gives when every row gets it, by name.

        Args:
            rows: The split, as `load` gave it.
            setup: As for `encode`.

        Returns:
            Nothing where no answer is given twice, or none can be.
        """
        return {}

    @abstractmethod
    def decode(self, answers: Any, index: Sequence[int], rows: Dataset, setup: Setup) -> list[dict[str, Any]]:
        """The answers in words, one dictionary for each of `rows`.

        Args:
            answers: From `answer`, as NumPy arrays.
            index: Of the row that each answer belongs to.
            rows: From `unlabelled`.
            setup: As for `encode`.
        """


def refuse_line(task: str, *names: str) -> NoReturn:
    """Say that a line of text is too little, and how rows with these columns are given.

    Raises:
        DataError: Always.
    """
    example = "{" + ", ".join(f'"{name}": "…"' for name in names) + "}"
    raise DataError(
        f"A line of text is no row of {task}, which reads {' and '.join(map(repr, names))}: give a JSON object for "
        f"each row, {example}, or a file with these columns."
    )


def forward_arguments(batch: Batch) -> dict[str, Any]:
    """The part of a batch that is for the model's forward."""
    return {name: value for name, value in batch.items() if not name.startswith(EVAL)}


def accepted_by(model: Any) -> set[str]:
    """Names of the arguments that a model's forward takes, wrapped by PEFT or not."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(base.forward).parameters)


def map_rows(rows: Dataset, function: Callable[..., dict[str, list[Any]]], name: str) -> Dataset:
    """New columns from batches of rows and their indices; a batch may give more or fewer rows than it has.

    Args:
        rows: The split.
        function: From ``(columns, indices)`` to columns.
        name: Beside the progress bar.
    """
    return rows.map(
        function,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        keep_in_memory=True,
        new_fingerprint=f"{name}-encoded",  # nothing is cached, so there is nothing to hash
        desc=f"tokenize {name}",
    )
