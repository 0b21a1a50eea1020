"""Summarization: a document and its summary, scored by ROUGE (Lin, 2004) with stems.

ROUGE-L takes a summary as one sequence. ROUGE-Lsum is Lin's summary-level ROUGE-L (section 3.2): each sentence of the
reference against all sentences of the summary, so that their order does not count. It is what papers on summaries of
several sentences call R-L.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from propulsion_tools.errors import require
from propulsion_tools.tasks.base import Lengths, TaskData
from propulsion_tools.tasks.generation import Generation
from propulsion_tools.tasks.mining import mine_summaries
from propulsion_tools.tasks.row_conversion import Row, text_in

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class Summarization(Generation):
    """A document and its summary; columns as in `Generation`, where ``reference`` is the summary too."""

    packages: ClassVar[tuple[str, ...]] = ("rouge_score", "sentencex")
    instruction: str = "Summarize this text.\n\n{text}"
    cuts: bool = True
    main_metric: str = "rougeL"

    def column_names(self, given: Mapping[str, str]) -> dict[str, str]:
        """The document and its summary."""
        return {"text_column": "document", "label_column": "summary"}

    def unanswered(self, row: Row) -> dict[str, Any]:
        """The document."""
        return {"text": text_in(row, "document", "article", "text", "dialogue")}

    def convert(self, row: Row) -> dict[str, Any]:
        """The document and its summary."""
        summary = text_in(row, "summary", "highlights", "abstract", "target").strip()
        return {**self.unanswered(row), "target": summary, "reference": summary}

    def score(self, text: str, row: Row) -> dict[str, float]:
        """F measures of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum."""
        rouge = _scorer().score(*map(sentence_lines, (row["reference"], text)))
        return {name: rouge[name].fmeasure for name in ROUGE}

    def toy(self) -> TaskData:
        """What happened to whom, in brief."""
        from datasets import Dataset

        names = ("the cat", "a dog", "the bird", "a fish")
        summaries = [f"{name} came home" for name in names]
        texts = [f"it was late and raining when {name} came home at last and slept" for name in names]
        rows = Dataset.from_dict({"text": texts, "target": summaries, "reference": summaries})
        return TaskData({"train": rows, "validation": rows}, None, ())


def sentence_lines(text: str) -> str:
    """A text with one sentence a line, by the rules for English of Wikimedia's sentencex; its own lines are kept."""
    segment = require("sentencex", "train").segment
    return "\n".join(sentence.strip() for line in text.splitlines() for sentence in segment("en", line))


@cache
def _scorer() -> Any:
    return require("rouge_score.rouge_scorer", "train").RougeScorer(ROUGE, use_stemmer=True)


# Lengths and beams are those that BART's authors chose for these sets.
TASKS = (
    Summarization(
        "summaries",
        "the summary line of a docstring from its body",
        default=mine_summaries,
        lengths=Lengths(max_length=512, max_target_length=64, max_new_tokens=64, num_beams=4),
    ),
    Summarization(
        "xsum",
        "one sentence for a news article",
        hub_id="EdinburghNLP/xsum",
        instruction="Summarize this article in one sentence.\n\n{text}",
        lengths=Lengths(max_length=1024, max_target_length=64, max_new_tokens=62, num_beams=6),
    ),
    Summarization(
        "cnn_dailymail",
        "the highlights of a news article",
        hub_id="abisee/cnn_dailymail",
        hub_config="3.0.0",
        instruction="Write the highlights of this article.\n\n{text}",
        lengths=Lengths(max_length=1024, max_target_length=142, max_new_tokens=142, num_beams=4),
        main_metric="rougeLsum",  # the paper's R-L is nearly as high as its R-1, which ROUGE-L never is
    ),
)
