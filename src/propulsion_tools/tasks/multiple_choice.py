"""Questions with options, from the columns that each set has, or from the instructions of LLM-Adapters.

A question becomes an instruction that lists its options under numbered words (answer1, answer2, …) and asks for one of
the words, as in LLM-Adapters (Hu et al., 2023), whose rows (``instruction``, ``answer``) are taken as they come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.raw_tables import short
from propulsion_tools.tasks.row_conversion import Row, text_in

TRUTH = ("true", "false")
_NUMBERED = re.compile(r"\b(?:answer|solution|option|ending)\d+:", re.IGNORECASE)
_FORMAT = re.compile(r"\s*answer format:.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """A question, its options as texts, and the number of the right one, if it is known."""

    question: str
    options: tuple[str, ...]
    label: int | None

    def known_label(self) -> int:
        """The number of the right option.

        Raises:
            DataError: It is not known.
        """
        if self.label is None:
            raise DataError("its answer is not given.")
        return self.label


Reader = Callable[[Row], Choice]


def boolq(row: Row) -> Choice:
    """A passage and a question about it that is true or false."""
    passage = f"{text_in(row, 'passage')}\n" if row.get("passage") else ""
    value = row.get("answer", row.get("label"))
    known = {"true": 0, "1": 0, "false": 1, "0": 1, "none": None}
    if str(value).lower() not in known:
        raise DataError(f"its answer is {short(value)}: true or false is wanted.")
    return Choice(passage + text_in(row, "question"), TRUTH, known[str(value).lower()])


def piqa(row: Row) -> Choice:
    """A goal and two ways to reach it."""
    return Choice(text_in(row, "goal"), (text_in(row, "sol1"), text_in(row, "sol2")), _number(row.get("label"), 0, 2))


def siqa(row: Row) -> Choice:
    """A situation, a question about it, and three answers."""
    options = tuple(text_in(row, f"answer{letter}") for letter in "ABC")
    return Choice(f"{text_in(row, 'context')} {text_in(row, 'question')}", options, _number(row.get("label"), 1, 3))


def hellaswag(row: Row) -> Choice:
    """The beginning of a story and four endings."""
    options = listed_texts(row.get("endings"))
    return Choice(text_in(row, "ctx"), options, _number(row.get("label"), 0, len(options)))


def winogrande(row: Row) -> Choice:
    """A sentence with a blank, and two words for it."""
    options = (text_in(row, "option1"), text_in(row, "option2"))
    return Choice(text_in(row, "sentence"), options, _number(row.get("answer"), 1, 2))


def science(row: Row) -> Choice:
    """A question with lettered or numbered options (ARC, OpenBookQA)."""
    listed = row.get("choices")
    if not isinstance(listed, Mapping):
        raise DataError(f"its choices are {short(listed)}: lists under 'text' and 'label' are wanted.")
    question, key = text_in(row, "question", "question_stem"), row.get("answerKey")
    options = listed_texts(listed.get("text"))
    if key in (None, ""):
        return Choice(question, options, None)
    names = listed_texts(listed.get("label"))
    if len(names) != len(options):
        raise DataError(f"it has {len(options)} options and {len(names)} labels: each has one.")
    if str(key) not in names:
        raise DataError(f"its answer {short(key)} is none of its options {', '.join(names)}.")
    return Choice(question, options, names.index(str(key)))


def from_instruction(row: Row, words: Sequence[str]) -> Choice:
    """The question and the options that an instruction of LLM-Adapters lists.

    Raises:
        DataError: It lists none, or its answer is none of them.
    """
    text = _FORMAT.sub("", text_in(row, "instruction"))
    head, *options = (part.strip() for part in _NUMBERED.split(text))
    question = head.partition(":" if options else "question:")[2].strip() or head
    options = options or [word for word in words if word in TRUTH]
    if len(options) < 2:
        raise DataError("its instruction lists no options.")
    answer = row.get("answer")
    if answer is not None and answer not in words[: len(options)]:
        raise DataError(f"its answer {short(answer)} is none of {', '.join(words[: len(options)])}.")
    return Choice(question, tuple(options), None if answer is None else list(words).index(answer))


def instruct(choice: Choice, words: Sequence[str]) -> str:
    """The question with its options under their words, and the words to choose from.

    Raises:
        DataError: There are more options than words.
    """
    if len(choice.options) > len(words):
        raise DataError(f"it has {len(choice.options)} options: at most {len(words)} have a word.")
    words = words[: len(choice.options)]
    listed = "" if choice.options == TRUTH else "\n\n" + "\n".join(map("{}: {}".format, words, choice.options))
    return f"{choice.question}{listed}\n\nAnswer with one of: {', '.join(words)}."


def listed_texts(value: Any) -> tuple[str, ...]:
    """A list of at least two options, as texts.

    Raises:
        DataError: It is something else.
    """
    if (
        not isinstance(value, list | tuple)
        or len(value) < 2
        or not all(isinstance(o, str | int | float) for o in value)
    ):
        raise DataError(f"its options are {short(value)}: a list of at least two texts is wanted.")
    return tuple(map(str, value))


def _number(value: Any, first: int, count: int) -> int | None:
    """The label as an index, whether it is a number or a text that holds one."""
    if value is None or value == "":
        return None
    try:
        label = int(value) - first
    except (TypeError, ValueError, OverflowError):
        label = -1
    if not 0 <= label < count or float(value) != int(value):
        raise DataError(f"its label is {short(value)}: a whole number from {first} to {first + count - 1} is wanted.")
    return label
