"""A text and what stands behind it, for decoders and encoder-decoders: what tasks of language models share.

A decoder reads the text and, behind it, its completion; the loss counts the completion and the end of the text alone.
Its rows are padded on the left, so that completions, and what is generated, stand at the end of every row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import (
    EVAL,
    INDEX,
    Batch,
    DataSource,
    Encoded,
    Lengths,
    Setup,
    Task,
    TaskData,
    accepted_by,
    forward_arguments,
    map_rows,
)
from propulsion_tools.tasks.model_kinds import CAUSAL_LM, SEQ2SEQ_LM, ModelKind, of_kind
from propulsion_tools.tasks.padding import NOT_SCORED, LeftCollator, WindowCollator
from propulsion_tools.tasks.prompts import Cutter
from propulsion_tools.tasks.raw_tables import RawSplits
from propulsion_tools.tasks.row_conversion import COLUMN_OPTIONS, Row, convert_splits, text_in, with_names
from propulsion_tools.tasks.task_data import read

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Completion(Task):
    """A text and its completion.

    The columns of a split are ``text``, ``target`` (what is trained on) and what the family scores with.

    Args:
        name: The task's name.
        description: One line for `propulsion tasks`.
        hub_id: The data set on the hub that is read where the user names no source.
        hub_config: Its configuration.
        default: Makes the rows where the user names no source, rather than the hub.
        instruction: The prompt of a decoder, with ``{text}`` in it.
        framed: Whether an instruction stands in a frame, the tokenizer's chat template where it has one.
        ends: Whether the completion ends the text, and the end is trained.
        kinds: The kinds of models that can do it.
        cuts: Whether training texts that are too long are cut; left out otherwise.
        main_metric: The score that tells which model is best.
        greater_is_better: Whether it is best where it is largest.
        lengths: How much is read and written.
    """

    name: str
    description: str
    hub_id: str | None = None
    hub_config: str | None = None
    default: Callable[[], RawSplits] | None = None
    instruction: str = "{text}"
    framed: bool = True
    ends: bool = True
    kinds: tuple[ModelKind, ...] = (CAUSAL_LM, SEQ2SEQ_LM)
    cuts: bool = False
    main_metric: str = "accuracy"
    greater_is_better: bool = True
    lengths: Lengths = Lengths()
    references: str = INDEX

    @abstractmethod
    def unanswered(self, row: Row) -> dict[str, Any]:
        """A raw row, which may lack an answer, in the columns of `unlabelled`.

        Raises:
            DataError: It is none; does not name the place.
        """

    @abstractmethod
    def convert(self, row: Row) -> dict[str, Any]:
        """A raw row in the columns of the family.

        Raises:
            DataError: It is none; does not name the place.
        """

    def for_answer(self, row: Row, cutter: Cutter) -> dict[str, Any]:
        """What `answer` needs of a row beside what its loss needs, under names that begin with ``eval_``."""
        return {}

    def load(self, source: DataSource) -> TaskData:
        """Read, check and sample the rows.

        Raises:
            DataError: There is nothing to read, or it cannot be trained on; says what to do.
            MissingExtraError: datasets is not installed.
        """
        raw = read(source, self.name, self.hub_id, self.hub_config, self.default)
        given = {name: value for name in COLUMN_OPTIONS if (value := getattr(source, name)) is not None}
        own = self.column_names(given)
        if unread := [name for name in given if name not in own]:
            if source.training:
                raise DataError(
                    f"{unread[0]} says nothing to the task {self.name}, whose columns have set names: drop it."
                )
            given = {name: value for name, value in given.items() if name in own}  # an older run may have named some
        return convert_splits(with_names(raw, given, own), source, self.convert)

    def column_names(self, given: Mapping[str, str]) -> dict[str, str]:
        """What the family calls the columns that the user may name, by the option that names them.

        Under other keys: what the family would also read, but not beside what is named.
        """
        return {}

    def unlabelled(
        self, rows: Sequence[Mapping[str, Any]], text_column: str | None = None, text_pair_column: str | None = None
    ) -> Dataset:
        """Rows with the column ``text``, and what else the family reads.

        Raises:
            DataError: There are no rows, or one cannot be read.
        """
        from datasets import Dataset

        if not rows:
            raise DataError("There are no rows to predict for.")
        converted = []
        for number, row in enumerate(rows, 1):
            try:
                converted.append({"text": text_in(row, text_column)} if text_column else self.unanswered(row))
            except DataError as error:
                raise DataError(f"Row {number}: {error}") from error
        return Dataset.from_list(converted)

    def model_kind(self, config: Any) -> ModelKind:
        """The first of the task's kinds that fits.

        Raises:
            OptionError: None does.
        """
        return of_kind(self.name, config, *self.kinds)

    def encode(self, rows: Dataset, setup: Setup, training: bool) -> Encoded:
        """Texts and completions as token ids, with ``labels`` where there are completions.

        Raises:
            DataError: No training row fits into ``max_length``.
        """
        cutter = Cutter(setup, self.instruction, self.framed, self.ends)

        def tokenize(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            examples = []
            for place, index in enumerate(indices):
                row = {name: values[place] for name, values in batch.items()}
                if training and not self.cuts and not cutter.fits(row["text"], row["target"]):
                    cutter.left_out += 1
                    continue
                for example in self.examples(row, cutter):
                    examples.append(example if training else {INDEX: index, **example, **self.for_answer(row, cutter)})
            names = examples[0] if examples else cutter.example("", "")  # no row of this batch fits
            return {name: [row[name] for row in examples] for name in names}

        encoded = map_rows(rows, tokenize, self.name)
        if not len(encoded):
            limit = setup.lengths.max_length
            raise DataError(f"None of the {len(rows)} training rows fits into {limit} tokens: raise --max_length.")
        return Encoded(encoded, cutter.notes(len(rows)))

    def examples(self, row: Row, cutter: Cutter) -> list[dict[str, Any]]:
        """What the model reads of a row: the text with its completion, or the text alone."""
        return [cutter.example(row["text"], row["target"]) if "target" in row else cutter.prompt(row["text"])]

    def collator(self, setup: Setup) -> Callable[[list[dict[str, Any]]], Batch]:
        """Pads to the longest row of a batch: on the left for decoders."""
        if setup.config.is_encoder_decoder:
            return WindowCollator(setup.tokenizer, {"labels": NOT_SCORED})
        pad = setup.tokenizer.pad_token_id
        return LeftCollator({"input_ids": pad, f"{EVAL}input_ids": pad, "labels": NOT_SCORED})

    def arguments(self, model: Any, batch: Batch) -> dict[str, Any]:
        """Without the logits that no label looks at, where the model can leave them out."""
        return completion_only(model, forward_arguments(batch))


def completion_only(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a decoder for the logits of the completions alone.

    The labels of the last K positions go with the logits of the last K, one more than the longest completion has: the
    loss is the same, and a large vocabulary is multiplied with the completions alone.
    """
    if "labels" not in arguments or "logits_to_keep" not in accepted_by(model) or _has_virtual_tokens(model):
        return arguments
    labels = arguments["labels"]
    first = int((labels != NOT_SCORED).any(dim=0).int().argmax())
    count = labels.shape[1] - max(0, first - 1)
    return {**arguments, "labels": labels[:, -count:], "logits_to_keep": count}


def _has_virtual_tokens(model: Any) -> bool:
    """Whether PEFT puts trained tokens in front, and labels for them in front of the labels."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def token_losses(logits: Tensor, labels: Tensor, config: Any) -> Tensor:
    """−log p of every labelled token, 0 where there is no label.

    Args:
        logits: (batch, K, vocabulary).
        labels: (batch, ≤ K), of the last positions.
        config: Of the model; a decoder's logits are of the token that follows.

    Returns:
        (batch, tokens), float32.
    """
    logits = logits[:, -labels.shape[1] :].float()
    if not config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return cross_entropy(logits.transpose(1, 2), labels, ignore_index=NOT_SCORED, reduction="none")
