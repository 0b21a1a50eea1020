"""Arithmetic reasoning: word problems, answered in steps; the last number of what is written is the answer.

That is the protocol of LLM-Adapters (Hu et al., 2023): commas separate thousands, a fraction ends with its denominator,
and a percent sign changes nothing. Where its pattern misreads what people write, this one does not: a minus may stand
before a currency, and neither the power of a unit nor what a model writes on behind its answer is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import Lengths, TaskData
from propulsion_tools.tasks.generation import Generation
from propulsion_tools.tasks.multiple_choice import listed_texts
from propulsion_tools.tasks.raw_tables import short
from propulsion_tools.tasks.row_conversion import Row, text_in

T = TypeVar("T")
TOLERANCE = 1e-3  # of LLM-Adapters (Hu et al., 2023)
_MINUS_SIGNS = str.maketrans(dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"))
_DIGITS = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_MINUS = r"(?<![\w)\]])-"  # behind any of these it joins two things, as in 7-3 and 5-year-old
_CURRENCY = r"(?:(?:US|CA|AU)?[$€£¥₹]|\b(?:USD|EUR|GBP|INR|Rs)\.?)[ \u00a0]?"
_NO_POWER = r"(?<![A-Za-z_\d])(?<![A-Za-z]\^)(?<![A-Za-z]\*\*)"  # as in cm2 and cm^2
_NUMBER = re.compile(rf"(?:({_MINUS})?{_CURRENCY}(-)?|({_MINUS})?{_NO_POWER})({_DIGITS})")
_GLUED = re.compile(rf"({_DIGITS})")  # as in solution2, where nothing else is a number
_MARK = re.compile(r"####[\s*_\\({\[=:]*")
_NEXT_PROBLEM = re.compile(
    r"(?<=\S)\s*(?:\b(?:Question|Problem|Q)\s*\d*\s*:|###?\s*(?:Instruction|Question|Problem)\b)"
)
_OPTION = re.compile(r"^\s*\(?([A-E])\)\s*")
_CALCULATOR = re.compile(r"<<[^>]*>>")
_MARKED_LETTER = re.compile(r"####\W*([A-E])\b")
_LETTER = re.compile(r"\(([A-E])\)|\b([B-E])\b|(?:is|answer:?)\s+(A)\b|\b(A)\s*$|^\s*(A)\b(?!\s+[a-z])")


def last_number(text: str) -> float | None:
    """The number that a text answers with: behind ``####``, or else its last; None if there is none.

    What follows the answer behind ``####``, or a further "Question:", is not read.
    """
    return _first_found(_number_in, text)


def last_letter(text: str) -> str | None:
    """The option letter, A to E, that a text answers with: behind ``####``, or else its last; None if it names none.

    "A" alone may be an article. What follows a further "Question:" is not read.
    """
    return _first_found(_letter_in, text)


def _first_found(read: Callable[[str], T | None], text: str) -> T | None:
    """What is read in the first of the problems, each with its answer, that a text holds and that has an answer."""
    return next((found for part in _NEXT_PROBLEM.split(text) if (found := read(part)) is not None), None)


def _number_in(text: str) -> float | None:
    text = text.translate(_MINUS_SIGNS)
    marked = [match for mark in _MARK.finditer(text) if (match := _NUMBER.match(text, mark.end()))]
    numbers = marked[:1] or list(_NUMBER.finditer(text)) or list(_GLUED.finditer(text))
    if not numbers:
        return None
    *minus, digits = numbers[-1].groups()
    return float(digits.replace(",", "")) * (-1 if any(minus) else 1)


def _letter_in(text: str) -> str | None:
    if marked := _MARKED_LETTER.search(text):
        return marked[1]
    letters = [next(filter(None, groups)) for groups in _LETTER.findall(text)]
    return letters[-1] if letters else None


@dataclass(frozen=True)
class Arithmetic(Generation):
    """A word problem and its solution; columns as in `Generation`, where ``reference`` is the number or the letter.

    Args:
        letters: Whether answers are letters of options (AQuA), numbers, or (None) of both kinds.
    """

    letters: bool | None = False
    lengths: Lengths = Lengths(max_length=512, max_target_length=256, max_new_tokens=256)

    def from_line(self, line: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """The instruction."""
        return {"instruction": line}

    def unanswered(self, row: Row) -> dict[str, Any]:
        """The problem, with its numbers filled in and its options listed."""
        if "Body" in row and "Numbers" not in row:
            return {"text": f"{text_in(row, 'Body').strip()} {text_in(row, 'Question').strip()}"}
        text = text_in(row, "instruction", "question", "Question", "original_text").strip()
        for number, value in enumerate(str(row.get("Numbers") or "").split()):
            text = text.replace(f"number{number}", f"{_float(value):g}")
        if row.get("options"):
            text += " Answer Choices: " + " ".join(
                _OPTION.sub(r"(\1) ", option) for option in listed_texts(row["options"])
            )
        return {"text": text}

    def convert(self, row: Row) -> dict[str, Any]:
        """The problem, its steps with the answer at their end, and the answer as a text."""
        given = next((str(row[name]).strip() for name in NAMES if row.get(name) not in (None, "")), None)
        if given is None:
            raise DataError("its answer is not given.")
        letter, number = re.fullmatch("[A-E]", given), last_number(given)
        if self.letters and not letter:
            raise DataError(f"its answer is {short(given)}: a letter from A to E is wanted.")
        if number is None and (self.letters is False or not letter):
            raise DataError(f"its answer is {short(given)}: a number is wanted.")
        reference = given if letter else f"{number:.15g}"
        target = str(row.get("output") or "").strip() or _steps(row, f"({given})" if letter else reference)
        return {**self.unanswered(row), "target": target, "reference": reference}

    def score(self, text: str, row: Row) -> dict[str, float]:
        """Whether the answer is the right one; a text without an answer is wrong."""
        if row["reference"].isalpha():
            return {"accuracy": float(last_letter(text) == row["reference"])}
        answer = last_number(text)
        return {"accuracy": float(answer is not None and abs(answer - float(row["reference"])) <= TOLERANCE)}

    def read_answer(self, text: str) -> dict[str, Any]:
        """The last number, or the last option letter."""
        return {"answer": last_letter(text) if self.letters else last_number(text)}

    def toy(self) -> TaskData:
        """Two numbers added."""
        from datasets import Dataset

        answers = ["A", "B", "C", "D"] if self.letters else ["3", "5", "7", "9"]
        texts = [f"what is {number} and {number + 1}" for number in range(1, 5)]
        targets = [f"The answer is {f'({answer})' if self.letters else answer}." for answer in answers]
        rows = Dataset.from_dict({"text": texts, "target": targets, "reference": answers})
        return TaskData({"train": rows, "validation": rows}, None, ())


NAMES = ("correct", "answer", "Answer", "final_ans", "ans")
"""Columns with the answer, the most telling first."""


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise DataError(f"its numbers hold {short(value)}, which is none.") from error


def _steps(row: Row, said: str) -> str:
    """The steps that a row has, without a calculator's marks, and the answer as their last sentence."""
    given = str(row.get("rationale") or row.get("answer") or "")
    steps = _CALCULATOR.sub("", given).split("####")[0].strip()
    end = f"The answer is {said}."
    return f"{steps}\n{end}" if " " in steps else end


TASKS = (
    Arithmetic("multiarith", "word problems of several steps", "ChilleD/MultiArith"),
    Arithmetic("gsm8k", "grade school mathematics", "openai/gsm8k", "main"),
    Arithmetic("addsub", "word problems of addition and subtraction"),
    Arithmetic("singleeq", "word problems of one equation"),
    Arithmetic("svamp", "word problems that are varied", "ChilleD/SVAMP"),
    Arithmetic("aqua", "algebra with options", "deepmind/aqua_rat", "raw", letters=True),
    Arithmetic("math", "word problems of any kind with their steps", letters=None),
)
