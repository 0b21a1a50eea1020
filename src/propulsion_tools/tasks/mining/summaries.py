"""Summarization: the summary line of a docstring from its body."""

from __future__ import annotations

from propulsion_tools.tasks.mining.mined_rows import Row, mine
from propulsion_tools.tasks.mining.source import Documented, first_paragraph, one_line, word_count
from propulsion_tools.tasks.raw_tables import RawSplits

SHORTEST_BODY, LONGEST_BODY = 200, 2000  # characters
FEWEST_WORDS, LONGEST_SUMMARY = 4, 160


def mine_summaries() -> RawSplits:
    """Columns ``document`` (a docstring without its first paragraph) and ``summary`` (that paragraph)."""
    return mine(summary_row, "Summary lines of docstrings and their bodies")


def summary_row(package: str, documented: Documented) -> Row | None:
    """The body and the summary line, if both have a usual length and the line is a sentence."""
    first, rest = first_paragraph(documented.docstring)
    summary, document = one_line(first), one_line(rest)
    fits = SHORTEST_BODY <= len(document) <= LONGEST_BODY and len(summary) <= LONGEST_SUMMARY
    if not fits or word_count(summary) < FEWEST_WORDS or not summary.endswith("."):
        return None
    return {"document": document, "summary": summary}
