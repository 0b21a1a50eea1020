"""Token classification: a tag for each word, scored by the entities that the tags spell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from propulsion_tools.errors import DataError, require
from propulsion_tools.tasks.base import INDEX, Batch, DataSource, Encoded, Setup, Task, TaskData, map_rows
from propulsion_tools.tasks.columns import named_column
from propulsion_tools.tasks.majority import most_frequent
from propulsion_tools.tasks.model_kinds import TOKEN_CLASSIFIER, ModelKind, of_kind
from propulsion_tools.tasks.padding import NOT_SCORED, WindowCollator
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows, length, take
from propulsion_tools.tasks.tag_metrics import TagMetrics, tag_scores, tag_sequences, tags_of_words
from propulsion_tools.tasks.tags import OUTSIDE, check_lengths, tag_ids, tag_names
from propulsion_tools.tasks.task_data import check_texts, read, sampled, with_validation
from propulsion_tools.tasks.windows import word_windows

if TYPE_CHECKING:
    from datasets import Dataset

WORDS, TAGS = ("tokens", "words"), ("ner_tags", "tags", "labels", "ner")
OPENED = "eval_words"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TokenClassification(Task):
    """Words, and their tags in the IOB scheme.

    The columns of a split are ``tokens`` (words) and ``tags`` (ids). A word's tag is learned and read at its first
    sub-token; a text that is longer than the model is read in windows, so that every word has a tag.

    Args:
        name: The task's name.
        description: One line for `propulsion tasks`.
        label_names: Names of the tag ids; None: taken from the data.
        hub_id: The data set on the hub that is read where the user names no source.
        hub_config: Its configuration.
        default: Makes the rows where the user names no source and there is no hub data set.
    """

    name: str
    description: str
    label_names: tuple[str, ...] | None = None
    hub_id: str | None = None
    hub_config: str | None = None
    default: Callable[[], RawSplits] | None = None
    packages: ClassVar[tuple[str, ...]] = ("seqeval",)
    main_metric: str = "f1"
    greater_is_better: bool = True
    references: str = INDEX

    def load(self, source: DataSource) -> TaskData:
        """Read, check and sample the rows.

        Raises:
            DataError: There is nothing to read, or words and tags do not fit; says what to do.
            MissingExtraError: datasets is not installed.
        """
        raw = read(source, self.name, self.hub_id, self.hub_config, self.default)
        first = "train" if "train" in raw.tables else next(iter(raw.tables))
        words = named_column(raw.tables[first], source.text_column, WORDS, "text_column", "the words")
        tags = named_column(raw.tables[first], source.label_column, TAGS, "label_column", "the tags")
        notes = list(raw.notes)
        tables = {}
        for split, table in raw.tables.items():
            if split.startswith("test") and tags not in table:
                notes.append(f"The split {split} is left out: its tags are withheld.")
                continue
            tables[split] = _checked(table, words, tags, split, raw.user_editable, notes)
        names = tag_names(tables[first]["tags"], self.label_names or raw.class_names.get(tags))
        tables = {split: {**rows, "tags": tag_ids(rows["tags"], names, split)} for split, rows in tables.items()}
        tables = with_validation(tables, ["tokens"], notes)
        return TaskData(sampled(tables, source, notes), names, tuple(notes), label_column=tags)

    def unlabelled(
        self, rows: Sequence[Mapping[str, Any]], text_column: str | None = None, text_pair_column: str | None = None
    ) -> Dataset:
        """Rows with the column ``tokens``; a text is cut into words and marks.

        Raises:
            DataError: There are no rows, or one has no words.
        """
        from datasets import Dataset

        if not rows:
            raise DataError("There are no rows to predict for.")
        table = from_rows(rows)
        name = named_column(table, text_column, (*WORDS, "text", "sentence"), "text_column", "the words")
        values = table[name]
        texts = check_texts(["a list" if isinstance(value, list) else value for value in values], name)
        tokens = [
            value if isinstance(value, list) else _WORD.findall(text) for value, text in zip(values, texts, strict=True)
        ]
        check_lengths(tokens, tokens, "given")
        return Dataset.from_dict({"tokens": tokens})

    def toy(self) -> TaskData:
        """Sentences that name one thing each."""
        from datasets import Dataset

        names = self.label_names or (OUTSIDE, "B-THING", "I-THING")
        thing = next(number for number, name in enumerate(names) if name.startswith("B-"))
        tokens = [["the", noun, "was", "good"] for noun in ("film", "plot", "cast", "song")]
        rows = Dataset.from_dict({"tokens": tokens, "tags": [[names.index(OUTSIDE), thing, 0, 0]] * len(tokens)})
        return TaskData({"train": rows, "validation": rows}, names, ())

    def model_kind(self, config: Any) -> ModelKind:
        """A classifier of tokens.

        Raises:
            OptionError: There is none of this architecture.
        """
        return of_kind(self.name, config, TOKEN_CLASSIFIER)

    def model_kwargs(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """The number and the names of the tags, for the model's configuration."""
        names = label_names or ()
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
        }

    def encode(self, rows: Dataset, setup: Setup, training: bool) -> Encoded:
        """Windows of the words, with the tag of each word at its first token where the rows have tags.

        Raises:
            OptionError: The tokenizer cannot say which characters a token stands for.
        """

        def tokenize(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            windows = word_windows(batch["tokens"], setup.tokenizer, setup.lengths.max_length)
            owners, opened = windows.pop("example"), windows.pop("words")
            if not training:
                windows |= {INDEX: [indices[owner] for owner in owners], OPENED: opened}
            if "tags" not in batch:
                return windows
            windows["labels"] = [
                [batch["tags"][owner][word] if word >= 0 else NOT_SCORED for word in words]
                for owner, words in zip(owners, opened, strict=True)
            ]
            scored = [row for row, words in enumerate(opened) if max(words) >= 0]  # others have no loss
            return {name: [column[row] for row in scored] for name, column in windows.items()}

        return Encoded(map_rows(rows, tokenize, self.name))

    def collator(self, setup: Setup) -> WindowCollator:
        """Pads to the longest window of a batch."""
        return WindowCollator(setup.tokenizer, {"labels": NOT_SCORED, OPENED: -1})

    def answer(self, model: Any, batch: Batch, setup: Setup, outputs: Any = None) -> Any:
        """The tag of each token and the word that it opens (-1 for none), both (batch, tokens)."""
        return super().answer(model, batch, setup, outputs).argmax(dim=-1), batch[OPENED]

    def metrics(self, rows: Dataset, setup: Setup) -> TagMetrics:
        """A fresh accumulator of accuracy and entity F1."""
        return TagMetrics(rows["tags"][:], setup.label_names or ())

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """The scores of the most frequent tag at every word: for most data, that there are no entities."""
        names, references = setup.label_names or (), rows["tags"][:]
        truth = [[names[tag] for tag in tags] for tags in references]
        answer = most_frequent(tag for tags in truth for tag in tags)
        return tag_scores(truth, [[answer] * len(tags) for tags in truth])

    def decode(self, answers: Any, index: Sequence[int], rows: Dataset, setup: Setup) -> list[dict[str, Any]]:
        """Answers in words.

        Returns:
            Per row its ``tokens``, their ``tags``, and ``entities``: ``type``, ``text``, and the first word and the one
            behind the last (``start``, ``end``).
        """
        names = setup.label_names or ()
        tags, opened = answers
        by_word = tags_of_words(tags, opened, index)
        entities_of = require("seqeval.metrics.sequence_labeling", "train").get_entities
        tokens = rows["tokens"][:]
        decoded = []
        for words, tags in zip(tokens, tag_sequences([by_word], [len(words) for words in tokens], names), strict=True):
            entities = [
                {"type": kind, "text": " ".join(words[first : last + 1]), "start": first, "end": last + 1}
                for kind, first, last in entities_of(tags)
            ]
            decoded.append({"tokens": words, "tags": tags, "entities": entities})
        return decoded


def _checked(table: Table, words: str, tags: str, split: str, user_editable: bool, notes: list[str]) -> Table:
    """The columns of words and tags; rows with no word or an empty one are left out of what the user cannot mend."""
    for column in (words, tags):
        if column not in table:
            there = ", ".join(map(repr, table))
            raise DataError(f"The {split} split lacks the column {column!r} of the training split; it has {there}.")
    usable = [row for row, some in enumerate(table[words]) if user_editable or (some and all(map(str.strip, some)))]
    if len(usable) < length(table):
        notes.append(
            f"{length(table) - len(usable)} rows of the {split} split have no words, or an empty one, and are left out."
        )
        table = take(table, usable)
    check_lengths(table[words], table[tags], split)
    return {"tokens": table[words], "tags": table[tags]}
