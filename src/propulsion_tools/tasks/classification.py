"""Text classification: one text or a pair, its classes or (regression) a number. `named` lists data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import (
    INDEX,
    Batch,
    DataSource,
    Encoded,
    Setup,
    Task,
    TaskData,
    map_rows,
    refuse_line,
)
from propulsion_tools.tasks.columns import Columns, find_columns
from propulsion_tools.tasks.majority import of_labels
from propulsion_tools.tasks.metrics import StreamedMetrics, streamed, to_numpy
from propulsion_tools.tasks.model_kinds import SEQUENCE_CLASSIFIER, ModelKind, of_kind
from propulsion_tools.tasks.raw_tables import RawSplits, from_rows
from propulsion_tools.tasks.task_data import check_texts, read, to_task_data

if TYPE_CHECKING:
    from datasets import Dataset

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
        no_label: What stands where annotators did not agree on a label; such rows are left out.
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
    no_label: tuple[str, ...] = ()
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
        raw = read(source, self.name, self.hub_id, self.hub_config, self.default)
        given = Columns(source.text_column, source.text_pair_column, source.label_column)
        data = to_task_data(raw, source, given, self.columns, self.label_names, self.regression, self.no_label)
        if "f1" in self.scores and data.label_names is not None and len(data.label_names) > 2:
            names = ", ".join(data.label_names)
            raise DataError(
                f"{self.name} is scored by the F1 of the second of two classes, and the data has "
                f"{len(data.label_names)} ({names}): use --task text-classification, which scores any number of them."
            )
        return data

    def unlabelled(
        self, rows: Sequence[Mapping[str, Any]], text_column: str | None = None, text_pair_column: str | None = None
    ) -> Dataset:
        """Rows with the columns ``text`` and, for pairs, ``text_pair``.

        Raises:
            DataError: There are no rows, one has no text, or it is not clear which column holds the text.
        """
        from datasets import Dataset

        if not rows:
            raise DataError("There are no rows to predict for.")
        table = from_rows(rows)
        columns, _ = find_columns(table, Columns(text_column, text_pair_column), self.columns, labelled=False)
        texts = [check_texts(table[name], name) for name in columns.texts()]
        return Dataset.from_dict(dict(zip(("text", "text_pair"), texts, strict=False)))

    def from_line(self, line: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """A text.

        Raises:
            DataError: The texts of this task are pairs.
        """
        pair = columns.get("text_pair_column") or self.columns.pair
        if pair is not None:
            refuse_line(self.name, columns.get("text_column") or str(self.columns.text), pair)
        return super().from_line(line, columns)

    def toy(self) -> TaskData:
        """Sentences of both signs, or a number from 0 to 5 for each."""
        from datasets import Dataset

        texts = [f"{subject} was {word}" for subject in ("the film", "a plot") for word in ("good", "bad", "dull")]
        names = None if self.regression else self.label_names or ("negative", "positive")
        labels = [float(row) if names is None else row % len(names) for row in range(len(texts))]
        rows = Dataset.from_dict({"text": texts, **self._toy_pairs(texts), "label": labels})
        return TaskData({"train": rows, "validation": rows}, names, ())

    def _toy_pairs(self, texts: list[str]) -> dict[str, list[str]]:
        return {"text_pair": texts[::-1]} if self.columns.pair else {}

    def model_kind(self, config: Any) -> ModelKind:
        """A classifier of sequences; decoders read their last token.

        Raises:
            OptionError: There is none of this architecture.
        """
        return of_kind(self.name, config, SEQUENCE_CLASSIFIER)

    def model_kwargs(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """The number and the names of the labels, for the model's configuration."""
        if label_names is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
            "problem_type": "single_label_classification",
        }

    def encode(self, rows: Dataset, setup: Setup, training: bool) -> Encoded:
        """Texts or pairs, cut at ``max_length``, with ``labels`` where the rows have them."""

        def tokenize(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, Any]:
            tokens = setup.tokenizer(
                batch["text"], batch.get("text_pair"), truncation=True, max_length=setup.lengths.max_length
            )
            labels = {"labels": batch["label"]} if "label" in batch else {}
            return {**tokens, **labels, **({} if training else {INDEX: indices})}

        return Encoded(map_rows(rows, tokenize, self.name))

    def collator(self, setup: Setup) -> Callable[[list[dict[str, Any]]], Batch]:
        """Pads to the longest row of a batch."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(setup.tokenizer)

    def metrics(self, rows: Dataset, setup: Setup) -> StreamedMetrics:
        """A fresh accumulator of this task's scores."""
        return streamed(self.scores, self.regression)

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """The scores of the most frequent class or, for regression, of the mean."""
        return of_labels(rows["label"][:], self.scores, self.regression)

    def decode(self, answers: Any, index: Sequence[int], rows: Dataset, setup: Setup) -> list[dict[str, Any]]:
        """Answers in words.

        Returns:
            ``label``, ``label_id`` and ``scores`` (probability by name) per row; for regression, ``score``.
        """
        values = to_numpy(answers).astype(np.float64)
        if setup.label_names is None:
            return [{"score": float(value)} for value in values.reshape(-1)]
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        decoded = []
        for row in powers / powers.sum(axis=-1, keepdims=True):
            best = int(row.argmax())
            scores = {name: float(score) for name, score in zip(setup.label_names, row, strict=True)}
            decoded.append({"label": setup.label_names[best], "label_id": best, "scores": scores})
        return decoded
