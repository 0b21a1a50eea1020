"""Commonsense reasoning: questions with options, by two protocols.

| Task | The model | Its answer |
|---|---|---|
| ``piqa`` | writes "the correct answer is solution2" after an instruction (LLM-Adapters) | the first option word |
| ``piqa_ranking`` | gives every option a likelihood after the bare question | the likeliest option |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import Lengths, TaskData
from propulsion_tools.tasks.generation import Generation
from propulsion_tools.tasks.hub import PARQUET
from propulsion_tools.tasks.multiple_choice import (
    TRUTH,
    Choice,
    Reader,
    boolq,
    from_instruction,
    hellaswag,
    instruct,
    piqa,
    science,
    siqa,
    winogrande,
)
from propulsion_tools.tasks.ranking import Ranking
from propulsion_tools.tasks.row_conversion import Row, text_in

TARGET = "the correct answer is {}"


def numbered(word: str, count: int) -> tuple[str, ...]:
    """Option words: answer1, answer2 and so on."""
    return tuple(f"{word}{number}" for number in range(1, count + 1))


@dataclass(frozen=True)
class Commonsense(Generation):
    """A question with options; columns as in `Generation`, where ``reference`` is the right option's word.

    Args:
        reader: Reads the set's own columns.
        words: Option words, in the order of the options.
    """

    reader: Reader = science
    words: tuple[str, ...] = numbered("answer", 5)
    lengths: Lengths = Lengths(max_length=256, max_target_length=32, max_new_tokens=32)

    def from_line(self, line: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """The instruction."""
        return {"instruction": line}

    def unanswered(self, row: Row) -> dict[str, Any]:
        """The instruction as it comes, or else one that lists the options."""
        given = row.get("instruction") is not None
        return {"text": text_in(row, "instruction") if given else instruct(self.reader(row), self.words)}

    def convert(self, row: Row) -> dict[str, Any]:
        """The instruction, what is to be written, and the right option's word."""
        asked = self.unanswered(row)
        if row.get("instruction") is None:
            word = self.words[self.reader(row).known_label()]
        elif (word := text_in(row, "answer")) not in self.words:
            raise DataError(f"its answer is {word!r}: one of {', '.join(self.words)} is wanted.")
        return {**asked, "target": TARGET.format(word), "reference": word}

    def score(self, text: str, row: Row) -> dict[str, float]:
        """Whether the answer is the right one; a text without an option word is wrong."""
        return {"accuracy": float(self.read_answer(text)["answer"] == row["reference"])}

    def read_answer(self, text: str) -> dict[str, Any]:
        """The first option word in a text, None if there is none."""
        match = re.search("|".join(rf"\b{word}\b" for word in self.words), text, re.IGNORECASE)
        return {"answer": match[0].lower() if match else None}

    def toy(self) -> TaskData:
        """Which of two things is larger."""
        from datasets import Dataset

        rows = [
            {"text": instruct(choice, self.words), "target": TARGET.format(word), "reference": word}
            for choice in toy_choices()
            for word in [self.words[choice.known_label()]]
        ]
        return TaskData({"train": Dataset.from_list(rows), "validation": Dataset.from_list(rows)}, None, ())


@dataclass(frozen=True)
class RankedCommonsense(Ranking):
    """The options of a question by their likelihoods after it, or after their place in a sentence with a blank.

    Args:
        reader: Reads the set's own columns.
        words: Option words in the instructions of LLM-Adapters.
    """

    reader: Reader = science
    words: tuple[str, ...] = numbered("answer", 5)

    def choice(self, row: Row) -> Choice:
        """The question and its options; a sentence with a blank is asked up to there, and each option ends it."""
        choice = from_instruction(row, self.words) if row.get("instruction") is not None else self.reader(row)
        before, blank, after = choice.question.partition("_")
        if blank and self.reader is winogrande:
            return replace(choice, question=before.rstrip(), options=tuple(word + after for word in choice.options))
        return choice

    def toy(self) -> TaskData:
        """Which of two things is larger."""
        from datasets import Dataset

        rows = [self.columns(choice) for choice in toy_choices()]
        return TaskData({"train": Dataset.from_list(rows), "validation": Dataset.from_list(rows)}, None, ())


def toy_choices() -> list[Choice]:
    """Questions that can be answered without knowing the world."""
    things = ("a mouse", "a mountain", "a shoe", "the sea")
    return [Choice(f"is a house larger than {thing}", ("yes", "no"), row % 2) for row, thing in enumerate(things)]


ASKED, CONTINUED = "Question: {text}\nAnswer:", "{text}"
SETS: tuple[tuple[str, str, str, str | None, Reader, tuple[str, ...], str], ...] = (
    ("boolq", "yes or no about a passage", "google/boolq", None, boolq, TRUTH, ASKED),
    (
        "piqa",
        "how to reach a goal in the physical world",
        f"ybisk/piqa{PARQUET}",
        None,
        piqa,
        numbered("solution", 2),
        ASKED,
    ),
    ("siqa", "what people do, and why", "lighteval/siqa", None, siqa, numbered("answer", 3), ASKED),
    ("hellaswag", "how a story goes on", "Rowan/hellaswag", None, hellaswag, numbered("ending", 4), CONTINUED),
    (
        "winogrande",
        "which of two a sentence speaks of",
        "allenai/winogrande",
        "winogrande_xl",
        winogrande,
        numbered("option", 2),
        CONTINUED,
    ),
    ("arc_easy", "school science", "allenai/ai2_arc", "ARC-Easy", science, numbered("answer", 5), ASKED),
    ("arc_challenge", "hard school science", "allenai/ai2_arc", "ARC-Challenge", science, numbered("answer", 5), ASKED),
    ("obqa", "school science and common sense", "allenai/openbookqa", "main", science, numbered("answer", 4), ASKED),
)
TASKS = tuple(
    task
    for name, what, hub_id, config, reader, words, asked in SETS
    for task in (
        Commonsense(name, what, hub_id, config, reader=reader, words=words),
        RankedCommonsense(
            f"{name}_ranking", f"{what}, by likelihood", hub_id, config, instruction=asked, reader=reader, words=words
        ),
    )
)
