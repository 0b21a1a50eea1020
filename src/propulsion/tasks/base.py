"""What a task is: where its rows come from, how they become tensors, and how predictions are scored and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft import TaskType

from propulsion.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding

Metrics = Callable[..., dict[str, float]]
"""Called batch by batch as ``metrics(eval_prediction, compute_result=False)``; see `TrainingArguments`."""


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

    Raises:
        ConfigError: Both a folder and a hub id are given, or a number of rows is below 1.
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

    def __post_init__(self) -> None:
        if self.data_dir is not None and self.dataset_name is not None:
            raise ConfigError(
                "data_dir and dataset_name are both given: the rows come from one of them, drop the other."
            )
        if self.dataset_config_name is not None and self.data_dir is not None:
            raise ConfigError("dataset_config_name is a configuration of a hub data set: it does not go with data_dir.")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}; leave it out to keep every row.")


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    Args:
        splits: "train", "validation" and what else there is; columns ``text``, ``text_pair`` (pairs only), ``label``.
        label_names: Names of the label ids; None for regression.
        notes: What was guessed or decided on the way, one sentence each, for the user.
    """

    splits: Mapping[str, Dataset]
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]


class Task(ABC):
    """One thing to train for. A family of tasks is one class; a named data set is one instance of it."""

    name: str
    description: str
    peft_task_type: TaskType
    auto_class: str
    main_metric: str
    greater_is_better: bool

    @abstractmethod
    def load(self, source: DataSource) -> TaskData:
        """Read, check and sample the rows; raises DataError with what to do, and then nothing is loaded."""

    @abstractmethod
    def model_kwargs(self, data: TaskData) -> dict[str, Any]:
        """What ``auto_class.from_pretrained`` needs to know of the data, for example ``num_labels``."""

    @abstractmethod
    def encode(self, data: TaskData, tokenizer: Any, max_length: int | None) -> dict[str, Dataset]:
        """The splits as token ids, not padded, with a column ``labels``."""

    @abstractmethod
    def encode_texts(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: Any,
        max_length: int | None,
        text_column: str | None = None,
        text_pair_column: str | None = None,
    ) -> BatchEncoding:
        """Rows without labels as token ids, not padded; their columns are found as `load` finds them."""

    @abstractmethod
    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """Puts encoded rows together, padded to the longest of the batch."""

    @abstractmethod
    def metrics(self) -> Metrics:
        """A fresh accumulator for ``Trainer(compute_metrics=...)`` under ``batch_eval_metrics=True``."""

    @abstractmethod
    def decode(self, logits: Any, label_names: Iterable[str] | None) -> list[dict[str, Any]]:
        """The model's answers in words, one dictionary per row."""
