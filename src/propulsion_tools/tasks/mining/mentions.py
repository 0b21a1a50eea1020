"""Token classification: the names of parameters in running text, whose mark-up is taken away."""

from __future__ import annotations

import re

from propulsion_tools.tasks.mining.mined_rows import Row, mine
from propulsion_tools.tasks.mining.parameters import described
from propulsion_tools.tasks.mining.source import Documented, one_line
from propulsion_tools.tasks.raw_tables import RawSplits

TAGS = ("O", "B-PARAMETER", "I-PARAMETER")
PER_PACKAGE = {"train": 240, "validation": 60}
FEWEST_TOKENS, MOST_TOKENS = 8, 120
_MARKED = re.compile(r"(``|`|\*\*|\*)(\w+)\1")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def mine_mentions() -> RawSplits:
    """Columns ``tokens`` and ``ner_tags``: B-PARAMETER where a word is a parameter that the docstring describes."""
    return mine(mention_row, "Names of parameters in running text", per_package=PER_PACKAGE)


def mention_row(package: str, documented: Documented) -> Row | None:
    """The prose of a docstring, if it names a parameter.

    A name that the author has marked (`` `name` ``, ``*name*``) is a mention, and so is the same word elsewhere in the
    text; a word that nobody has marked is one only if it cannot be an English word (it has an underscore or a digit).
    """
    parts = described(documented)
    if parts is None:
        return None
    prose = one_line(parts.prose)
    marked = {match[2] for match in _MARKED.finditer(prose)}
    names = {name for name in parts.parameters if name in marked or re.search(r"[_\d]", name)}
    tokens = _TOKEN.findall(_MARKED.sub(r"\2", prose).replace("`", ""))
    tags = [TAGS[token in names] for token in tokens]
    if not FEWEST_TOKENS <= len(tokens) <= MOST_TOKENS or TAGS[1] not in tags:
        return None
    return {"tokens": tokens, "ner_tags": tags}
