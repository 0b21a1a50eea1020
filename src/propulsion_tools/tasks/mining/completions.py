"""Language modelling: the rest of a docstring's first sentence, after a signature and its first words."""

from __future__ import annotations

from propulsion_tools.tasks.mining.mined_rows import Row, mine
from propulsion_tools.tasks.mining.source import Documented, first_paragraph, one_line
from propulsion_tools.tasks.raw_tables import RawSplits

FEWEST_WORDS, MOST_WORDS = 6, 40


def mine_completions() -> RawSplits:
    """Columns ``prompt`` (a signature and the first half of its docstring's first paragraph), ``completion``."""
    return mine(completion_row, "Docstrings to be completed")


def completion_row(package: str, documented: Documented) -> Row | None:
    """The first paragraph of a function with parameters, cut in two between words."""
    words = one_line(first_paragraph(documented.docstring)[0]).split()
    if not documented.signature or not FEWEST_WORDS <= len(words) <= MOST_WORDS:
        return None
    half = len(words) // 2
    opening = f'def {documented.name}({documented.signature}):\n    """'
    return {"prompt": opening + " ".join(words[:half]), "completion": " " + " ".join(words[half:])}
