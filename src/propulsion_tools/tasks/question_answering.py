"""Extractive question answering: the span of a context that answers a question, or that there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.answers import with_answers
from propulsion_tools.tasks.base import (
    INDEX,
    Batch,
    DataSource,
    Encoded,
    Lengths,
    Setup,
    Task,
    TaskData,
    forward_arguments,
    map_rows,
    refuse_line,
)
from propulsion_tools.tasks.columns import named_column
from propulsion_tools.tasks.majority import most_frequent
from propulsion_tools.tasks.model_kinds import QUESTION_ANSWERER, ModelKind, of_kind
from propulsion_tools.tasks.padding import WindowCollator
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows
from propulsion_tools.tasks.span_metrics import SpanMetrics, gather_spans, span_scores
from propulsion_tools.tasks.task_data import check_texts, read, sampled, with_validation
from propulsion_tools.tasks.windows import OUTSIDE, best_spans, null_position, question_windows, token_span

if TYPE_CHECKING:
    from datasets import Dataset

CONTEXTS, QUESTIONS, ANSWERS = ("context", "passage", "text"), ("question", "query"), ("answers", "answer")
START_CHARS, END_CHARS, NULL = "eval_start_chars", "eval_end_chars", "eval_null"
_LENGTHS = Lengths(max_length=384, doc_stride=128)


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """A question, its context, and the answers that are spans of it.

    The columns of a split are ``context``, ``question`` and ``answers`` (``text`` and ``answer_start``, as in SQuAD).

    Args:
        name: The task's name.
        description: One line for `propulsion tasks`.
        unanswerable: Whether a question may be without an answer (SQuAD v2.0).
        hub_id: The data set on the hub that is read where the user names no source.
        default: Makes the rows where the user names no source and there is no hub data set.
    """

    name: str
    description: str
    unanswerable: bool = False
    hub_id: str | None = None
    default: Callable[[], RawSplits] | None = None
    main_metric: str = "f1"
    greater_is_better: bool = True
    lengths: Lengths = _LENGTHS
    references: str = INDEX

    def load(self, source: DataSource) -> TaskData:
        """Read, check and sample the rows.

        Raises:
            DataError: There is nothing to read, or an answer does not stand in its context; says what to do.
            MissingExtraError: datasets is not installed.
        """
        raw = read(source, self.name, self.hub_id, None, self.default)
        notes, tables = list(raw.notes), {}
        for split, table in raw.tables.items():
            if split.startswith("test") and not {source.label_column, *ANSWERS} & set(table):
                notes.append(f"The split {split} is left out: its answers are withheld.")
                continue
            answers = named_column(table, source.label_column, ANSWERS, "label_column", "the answers")
            rows = {**_texts(table, source.text_column, source.text_pair_column), "answers": table[answers]}
            tables[split], left_out = with_answers(rows, split, self.unanswerable, raw.user_editable)
            notes += left_out
        tables = with_validation(tables, ["context"], notes)
        return TaskData(sampled(tables, source, notes), None, tuple(notes))

    def unlabelled(
        self, rows: Sequence[Mapping[str, Any]], text_column: str | None = None, text_pair_column: str | None = None
    ) -> Dataset:
        """Rows with the columns ``context`` and ``question``.

        Raises:
            DataError: There are no rows, or one has no context or no question.
        """
        from datasets import Dataset

        if not rows:
            raise DataError("There are no rows to predict for.")
        return Dataset.from_dict(_texts(from_rows(rows), text_column, text_pair_column))

    def from_line(self, line: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """None: a row is a question and its context.

        Raises:
            DataError: Always.
        """
        refuse_line(self.name, QUESTIONS[0], CONTEXTS[0])

    def toy(self) -> TaskData:
        """Which fruit lies where."""
        from datasets import Dataset

        things, places = ("apple", "pear", "plum", "fig"), ("table", "chair", "floor", "shelf")
        rows: Table = {"context": [], "question": [], "answers": []}
        for thing, place in zip(things, places, strict=True):
            rows["context"].append(f"the {thing} was on the {place} and nobody took it")
            rows["question"].append(f"where was the {thing}")
            rows["answers"].append({"text": [place], "answer_start": [rows["context"][-1].index(place)]})
        data = Dataset.from_dict(rows)
        return TaskData({"train": data, "validation": data}, None, ())

    def model_kind(self, config: Any) -> ModelKind:
        """A model with a score for each token to be the first, and the last, of the answer.

        Raises:
            OptionError: There is none of this architecture.
        """
        return of_kind(self.name, config, QUESTION_ANSWERER)

    def model_kwargs(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """Two scores for each token, whatever a checkpoint was trained for before."""
        return {"num_labels": 2}

    def encode(self, rows: Dataset, setup: Setup, training: bool) -> Encoded:
        """Windows of the contexts, with the tokens of the first answer where the rows have answers.

        Raises:
            DataError: A question leaves no room for its context.
            OptionError: The tokenizer cannot say which characters a token stands for.
        """

        def tokenize(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            lengths = setup.lengths
            texts, numbers = (batch["question"], batch["context"]), [index + 1 for index in indices]
            windows = question_windows(*texts, setup.tokenizer, lengths.max_length, lengths.doc_stride, numbers)
            places = (windows.pop("example"), windows.pop("start_chars"), windows.pop("end_chars"))
            owners, starts, ends = places
            nulls = [null_position(ids, setup.tokenizer.cls_token_id) for ids in windows["input_ids"]]
            if "answers" in batch:
                spans = [
                    _target(batch["answers"][owner], *chars) or (null, null)
                    for owner, *chars, null in zip(*places, nulls, strict=True)
                ]
                windows["start_positions"] = [first for first, _ in spans]
                windows["end_positions"] = [last for _, last in spans]
            if not training:
                windows |= {START_CHARS: starts, END_CHARS: ends, NULL: nulls}
                windows[INDEX] = [indices[owner] for owner in owners]
            return windows

        return Encoded(map_rows(rows, tokenize, self.name))

    def collator(self, setup: Setup) -> WindowCollator:
        """Pads to the longest window of a batch."""
        return WindowCollator(setup.tokenizer, {START_CHARS: OUTSIDE, END_CHARS: OUTSIDE})

    def answer(self, model: Any, batch: Batch, setup: Setup, outputs: Any = None) -> Any:
        """The best span of each window: its characters (batch, 2), and its score beside "no answer"'s (batch, 2)."""
        outputs = model(**forward_arguments(batch)) if outputs is None else outputs
        return best_spans(outputs.start_logits, outputs.end_logits, batch[START_CHARS], batch[END_CHARS], batch[NULL])

    def metrics(self, rows: Dataset, setup: Setup) -> SpanMetrics:
        """A fresh accumulator of exact match and F1."""
        return SpanMetrics(rows["context"][:], rows["answers"][:], self._threshold(setup))

    def majority(self, rows: Dataset, setup: Setup) -> dict[str, float]:
        """Exact match and F1 of the most frequent answer, which may be that there is none."""
        references = [answers["text"] for answers in rows["answers"][:]]
        return span_scores([most_frequent(texts[0] if texts else "" for texts in references)] * len(rows), references)

    def decode(self, answers: Any, index: Sequence[int], rows: Dataset, setup: Setup) -> list[dict[str, Any]]:
        """Answers in words.

        Returns:
            Per row ``answer``, ``start`` and ``end`` (characters of the context) and ``score``; where a question may
            be without an answer, ``no_answer_score``, and an empty answer if that is larger by more than
            ``null_score_diff_threshold``.
        """
        chars, scores = answers
        spans, threshold = gather_spans(chars, scores, index), self._threshold(setup)
        decoded = []
        for row, context in enumerate(rows["context"]):
            span = spans[row]
            answered = threshold is None or span.margin <= threshold
            start, end = (span.start, span.end) if answered else (0, 0)
            entry = {"answer": context[start:end], "start": start, "end": end, "score": span.score}
            decoded.append(entry if threshold is None else {**entry, "no_answer_score": span.null})
        return decoded

    def _threshold(self, setup: Setup) -> float | None:
        return setup.null_score_diff_threshold if self.unanswerable else None


def _texts(table: Table, context: str | None, question: str | None) -> Table:
    names = {
        "context": named_column(table, context, CONTEXTS, "text_column", "the context"),
        "question": named_column(table, question, QUESTIONS, "text_pair_column", "the question"),
    }
    return {standard: check_texts(table[name], name) for standard, name in names.items()}


def _target(answers: Mapping[str, list[Any]], starts: list[int], ends: list[int]) -> tuple[int, int] | None:
    """The tokens of the first answer in a window that has all of it."""
    if not answers["text"]:
        return None
    start = answers["answer_start"][0]
    return token_span(starts, ends, start, start + len(answers["text"][0]))
