"""Question answering: what a docstring says of a parameter, as a span of the docstring."""

from __future__ import annotations

import re
from functools import partial

from propulsion_tools.tasks.mining.mined_rows import Row, mine
from propulsion_tools.tasks.mining.parameters import described
from propulsion_tools.tasks.mining.source import Documented, one_line, word_count
from propulsion_tools.tasks.raw_tables import RawSplits, unit_hash

SHORTEST_ANSWER, LONGEST_ANSWER, FEWEST_WORDS = 12, 160, 3
SHORTEST_CONTEXT, LONGEST_CONTEXT = 200, 1800
PER_PACKAGE = {"train": 400, "validation": 100}
_SENTENCE = re.compile(r"(?<=[a-z0-9)`]\.)\s+(?=[A-Z`])")
USUAL_NAMES = (
    "axis",
    "copy",
    "dtype",
    "tol",
    "weight",
    "verbose",
    "random_state",
    "max_iter",
    "alpha",
    "method",
    "mode",
)
"""Parameters that many functions have, to be asked for where they are not described."""


def mine_questions(unanswerable: float = 0.0) -> RawSplits:
    """Columns ``context``, ``question`` and ``answers`` (``text`` and ``answer_start``), as in SQuAD.

    Args:
        unanswerable: Share of the questions that ask for a parameter that the docstring does not name.
    """
    what = "Descriptions of parameters as answers"
    return mine(partial(question_row, unanswerable=unanswerable), what, per_package=PER_PACKAGE)


def question_row(package: str, documented: Documented, unanswerable: float = 0.0) -> Row | None:
    """One question for a docstring: of its parameters, the one with the smallest hash that has a span."""
    context = one_line(documented.docstring)
    parts = described(documented) if SHORTEST_CONTEXT <= len(context) <= LONGEST_CONTEXT else None
    if parts is None:
        return None
    spans = {name: span for name, text in parts.parameters.items() if (span := _span(context, name, text))}
    if not spans:
        return None
    name = min(spans, key=lambda name: unit_hash(f"{name}:{context}"))
    answers = {"text": [spans[name][1]], "answer_start": [spans[name][0]]}
    absent = [name for name in USUAL_NAMES if not re.search(rf"\b{name}\b", context)]
    if absent and unit_hash(f"unanswerable:{context}") < unanswerable:
        name = min(absent, key=lambda name: unit_hash(f"{name}:{context}"))
        answers = {"text": [], "answer_start": []}
    return {"context": context, "question": f"What is the parameter {name}?", "answers": answers}


def _span(context: str, name: str, description: str) -> tuple[int, str] | None:
    """Where the first sentence of a description stands after the parameter's name, and what it is."""
    answer = _SENTENCE.split(description, maxsplit=1)[0]
    if not SHORTEST_ANSWER <= len(answer) <= LONGEST_ANSWER or word_count(answer) < FEWEST_WORDS:
        return None
    place = re.search(rf"\b{re.escape(name)}\b[^\n]{{0,120}}?(?P<answer>{re.escape(answer)})", context)
    return (place.start("answer"), answer) if place else None
