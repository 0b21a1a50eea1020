"""Text classification: one text or a pair, its classes or (regression) a number. `named` lists data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from peft import TaskType

from propulsion.errors import DataError, require
from propulsion.tasks.assemble import check_texts, read, to_task_data
from propulsion.tasks.base import DataSource, Task, TaskData
from propulsion.tasks.columns import Columns, find_columns
from propulsion.tasks.metrics import StreamedMetrics, streamed, to_numpy
from propulsion.tasks.tables import RawSplits, from_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BatchEncoding

LONGEST = 512  # tokens, where neither the user nor the tokenizer sets a limit
UNKNOWN = Columns()


@dataclass(frozen=True)
class TextClassification(Task):
    """A text, or a pair of texts, and its class; with ``regression``, its number.

    Args:
        name: The task's name.
        description: One line for `propulsion tasks`.
        columns: What this data set calls its columns; guessed where nothing is said.
        label_names: Names of the label ids; None: taken from the data.
        scores: Names of the scores; the first is the main metric.
        hub_id: The data set on the hub that is read where the user names no source.
        hub_config: Its configuration.
        default: Makes the rows where the user names no source and there is no hub data set.
        regression: Whether labels are numbers to be predicted.
    """

    name: str
    description: str
    columns: Columns = UNKNOWN
    label_names: tuple[str, ...] | None = None
    scores: tuple[str, ...] = ("accuracy", "f1_macro")
    hub_id: str | None = None
    hub_config: str | None = None
    default: Callable[[], RawSplits] | None = None
    regression: bool = False
    peft_task_type: TaskType = TaskType.SEQ_CLS
    auto_class: str = "AutoModelForSequenceClassification"
    greater_is_better: bool = True

    @property
    def main_metric(self) -> str:  # type: ignore[override]
        """The score that tells which model is best."""
        return self.scores[0]

    def load(self, source: DataSource) -> TaskData:
        """Read, check and sample the rows.

        Raises:
            DataError: There is nothing to read, or it cannot be trained on; says what to do.
            MissingExtraError: datasets is not installed.
        """
        require("datasets", "train")
        raw = self._read(source)
        given = Columns(source.text_column, source.text_pair_column, source.label_column)
        return to_task_data(raw, source, given, self.columns, self.label_names, self.regression)

    def model_kwargs(self, data: TaskData) -> dict[str, Any]:
        """The number and the names of the labels, for the model's configuration."""
        if data.label_names is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": len(data.label_names),
            "id2label": dict(enumerate(data.label_names)),
            "label2id": {name: index for index, name in enumerate(data.label_names)},
            "problem_type": "single_label_classification",
        }

    def encode(self, data: TaskData, tokenizer: Any, max_length: int | None) -> dict[str, Dataset]:
        """The splits as token ids, not padded, with ``labels``.

        Args:
            data: What `load` gave.
            tokenizer: The base model's.
            max_length: Truncate to this many tokens; None: to what the tokenizer allows.
        """

        def tokenize(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
            tokens = _tokens(batch["text"], batch.get("text_pair"), tokenizer, max_length)
            return {**tokens, "labels": batch["label"]}

        return {
            split: rows.map(
                tokenize,
                batched=True,
                remove_columns=rows.column_names,
                keep_in_memory=True,
                new_fingerprint=f"{self.name}-{split}-encoded",  # nothing is cached, so there is nothing to hash
                desc=f"tokenize {split}",
            )
            for split, rows in data.splits.items()
        }

    def encode_texts(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: Any,
        max_length: int | None,
        text_column: str | None = None,
        text_pair_column: str | None = None,
    ) -> BatchEncoding:
        """Rows without labels as token ids, not padded.

        Raises:
            DataError: There are no rows, one has no text, or the column of the text cannot be told.
        """
        if not rows:
            raise DataError("There are no rows to encode.")
        table = from_rows(rows)
        columns, _ = find_columns(table, Columns(text_column, text_pair_column), self.columns, labelled=False)
        texts = [check_texts(table[name], name) for name in columns.texts()]
        return _tokens(texts[0], texts[1] if len(texts) > 1 else None, tokenizer, max_length)

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """Pads to the longest row of a batch."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(_padding(tokenizer))

    def metrics(self) -> StreamedMetrics:
        """A fresh accumulator of this task's scores."""
        return streamed(self.scores, self.regression)

    def decode(self, logits: Any, label_names: Iterable[str] | None) -> list[dict[str, Any]]:
        """Answers in words.

        Args:
            logits: Tensor or array, (rows, num_labels).
            label_names: Names of the labels; None for regression.

        Returns:
            ``label``, ``label_id`` and ``scores`` (probability by name) per row; for regression, ``score``.
        """
        values = to_numpy(logits).astype(np.float64)
        if label_names is None:
            return [{"score": float(value)} for value in values.reshape(-1)]
        names = tuple(label_names)
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        answers = []
        for row in powers / powers.sum(axis=-1, keepdims=True):
            best = int(row.argmax())
            scores = {name: float(score) for name, score in zip(names, row, strict=True)}
            answers.append({"label": names[best], "label_id": best, "scores": scores})
        return answers

    def _read(self, source: DataSource) -> RawSplits:
        if source.data_dir is None and source.dataset_name is None and self.default is not None:
            return self.default()
        name = source.dataset_name or self.hub_id
        if source.data_dir is None and name is None:
            raise DataError(
                f"The task {self.name} has no data of its own: name some with --data_dir or --dataset_name."
            )
        config = source.dataset_config_name or (self.hub_config if name == self.hub_id else None)
        return read(source.data_dir, name, config)


def _tokens(texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, max_length: int | None) -> BatchEncoding:
    limit = max_length or (tokenizer.model_max_length if tokenizer.model_max_length < 10**6 else LONGEST)
    second = None if pairs is None else list(pairs)
    return _padding(tokenizer)(list(texts), second, truncation=True, max_length=limit)


def _padding(tokenizer: Any) -> Any:
    """The tokenizer, with a padding token: the end of the text where a decoder's has none."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
