"""What an adapter is for: its task, its labels and its tokenizer, by its record or else by its configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RECORD_FILE, RunRecord
from propulsion_tools.tasks import ModelKind, Setup, Task, get_task
from propulsion_tools.tasks.base import Lengths
from propulsion_tools.tasks.model_kinds import (
    CAUSAL_LM,
    QUESTION_ANSWERER,
    SEQUENCE_CLASSIFIER,
    TOKEN_CLASSIFIER,
)
from propulsion_tools.training.base_models import check_lengths, longest_input
from propulsion_tools.training.trained_files import ADAPTER_CONFIG

KINDS = {kind.peft_task_type: kind for kind in (SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER, QUESTION_ANSWERER, CAUSAL_LM)}
"""What can be served, by what PEFT calls it."""
_TASKS = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "language-modelling",
}
_COLUMNS = ("text_column", "text_pair_column")


@dataclass(frozen=True)
class Sketch:
    """What an adapter's small files say.

    Attributes:
        folder: Where it is.
        record: That of its run, if it has one.
        base: The base model that it names.
        task_type: What PEFT calls its task.
    """

    folder: Path
    record: RunRecord | None
    base: str | None
    task_type: str | None

    @classmethod
    def read(cls, folder: Path) -> Sketch:
        """Read them.

        Raises:
            OptionError: They are no adapter's, or are damaged.
        """
        try:
            config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise OptionError(f"{folder} has no {ADAPTER_CONFIG} that can be read: it is no adapter.") from error
        values = config if isinstance(config, dict) else {}
        record = RunRecord.read(folder) if (folder / RECORD_FILE).is_file() else None
        base = record.spec.model_name_or_path if record else values.get("base_model_name_or_path")
        kind = values.get("task_type")
        return cls(folder, record, base if isinstance(base, str) else None, kind if isinstance(kind, str) else None)


@dataclass(frozen=True, eq=False)
class Card:
    """An adapter that answers.

    Attributes:
        name: What clients call it.
        row: What the bank calls it: another name each time that one is loaded.
        task: Reads its rows and says its answers.
        setup: The task's, for this adapter.
        kind: What is served.
        read: The columns that its run has read, by the options that name them.
        named: The columns that its run was told.
        width: How many scores a sequence has; None where the task reads something else.
        created: When it was loaded, in seconds.
    """

    name: str
    row: str
    task: Task
    setup: Setup
    kind: ModelKind
    read: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, str | None] = field(default_factory=dict)
    width: int | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def columns(self) -> list[str] | None:
        """The columns of its rows; None where it has no record that names them."""
        if self.kind is QUESTION_ANSWERER:
            return ["question", "context"]
        if self.kind is TOKEN_CLASSIFIER:
            return ["tokens"]
        told = {**self.read, **{option: name for option, name in self.named.items() if name}}
        return [told[option] for option in _COLUMNS if option in told] or None

    def described(self, resident: bool | None) -> dict[str, Any]:
        """As in OpenAI's list of models, and beside it what it reads, what it answers, and where it is.

        Args:
            resident: Whether its vectors are on the device; None: that is not known here.
        """
        labels = self.setup.label_names
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "propulsion",
            "task": self.task.name,
            "task_type": self.kind.peft_task_type,
            "columns": self.columns,
            "labels": None if labels is None else list(labels),
            "chat_template": self.kind is CAUSAL_LM and self.setup.tokenizer.chat_template is not None,
            "resident": resident,
        }


def make_card(name: str, row: str, sketch: Sketch, base: Setup, kind: ModelKind, labels: int | None) -> Card:
    """What an adapter is for.

    Args:
        name: What clients call it.
        row: What the bank calls it.
        sketch: What its files say.
        base: The base model's configuration, and the adapter's tokenizer.
        kind: What is served.
        labels: How many its head has.

    Raises:
        OptionError: It is for something else, or its record and its head differ.
    """
    record, width = sketch.record, labels if kind is SEQUENCE_CLASSIFIER else None
    if record is None:
        return Card(name, row, *_by_head(sketch, base, kind, labels), kind, width=width)
    task = get_task(str(record.spec.task))
    _check_kind(task.model_kind(base.config), kind)
    if kind in (SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER) and labels != len(record.label_names or (None,)):
        raise OptionError(
            f"record.json names {len(record.label_names or (None,))} labels, and the adapter's head has {labels}: "
            "they are of different runs."
        )
    lengths = Lengths(**{item.name: getattr(record.spec, item.name) for item in fields(Lengths)})
    threshold = record.spec.null_score_diff_threshold
    setup = replace(base, lengths=lengths, label_names=record.label_names, null_score_diff_threshold=threshold)
    if kind is not CAUSAL_LM:  # what is generated is as long as the request says
        check_lengths(setup, kind)
    named = {column: getattr(record.spec, column) for column in _COLUMNS}
    return Card(name, row, task, setup, kind, record.columns, named, width)


def _by_head(sketch: Sketch, base: Setup, kind: ModelKind, labels: int | None) -> tuple[Task, Setup]:
    """For an adapter without a record."""
    if sketch.task_type is not None and sketch.task_type != kind.peft_task_type:
        raise OptionError(f"The adapter is for {sketch.task_type}, and this server is for {kind.peft_task_type}.")
    task: Task = get_task(_TASKS[kind.peft_task_type])
    names = None
    if kind in (SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER):
        known = base.config.id2label if len(base.config.id2label) == labels else {}
        names = tuple(str(known.get(number, f"LABEL_{number}")) for number in range(labels or 0))
    if kind is SEQUENCE_CLASSIFIER and labels == 1:
        task, names = get_task("text-regression"), None
    longest = longest_input(base.config, base.tokenizer) or task.lengths.max_length
    length = min(task.lengths.max_length, longest)
    lengths = replace(task.lengths, max_length=length, doc_stride=min(task.lengths.doc_stride, length // 4))
    return task, replace(base, lengths=lengths, label_names=names)


def _check_kind(found: ModelKind, kind: ModelKind) -> None:
    if found is not kind:
        raise OptionError(f"The adapter is one of a {found.name}, and this server runs a {kind.name}.")
