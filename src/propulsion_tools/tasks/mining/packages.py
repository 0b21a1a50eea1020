"""Text classification (the demo's data): which Python package is a docstring from? Their names are masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from propulsion_tools.tasks.mining.mined_rows import PER_PACKAGE, Row, mine
from propulsion_tools.tasks.mining.source import PACKAGES, Documented, first_paragraph, one_line, word_count
from propulsion_tools.tasks.raw_tables import RawSplits

SHORTEST, LONGEST, FEWEST_WORDS = 25, 300, 4

MASK = "[package]"
_NAMES = re.compile(
    r"\w*(?:torch|transformers|numpy|scipy|sklearn|scikit|pandas|sympy|networkx|hugging[\s_-]?face)\w*"
    r"|(?<![^\W_])(?:np|pd|nx|sp|hf|aten)(?![^\W_])",
    re.IGNORECASE,
)


def mine_packages(packages: Mapping[str, str] = PACKAGES, per_package: Mapping[str, int] = PER_PACKAGE) -> RawSplits:
    """Columns ``text`` (a first paragraph) and ``label`` (the package's import name), equally many of each.

    Raises:
        DataError: Fewer than two of the packages are installed.
    """
    raw = mine(
        package_row,
        f"First paragraphs, with the names of packages masked as {MASK}",
        packages,
        per_package,
        fewest=2,
        equal=True,
    )
    return replace(raw, class_names={"label": tuple(sorted(set(raw.tables["train"]["label"])))})


def package_row(package: str, documented: Documented) -> Row | None:
    """The first paragraph with its package, if it is neither too short nor too long."""
    text = masked(first_paragraph(documented.docstring)[0])
    fits = SHORTEST <= len(text) <= LONGEST and word_count(text) >= FEWEST_WORDS
    return {"text": text, "label": package} if fits else None


def masked(text: str) -> str:
    """The text on one line, with every package's name masked."""
    return _NAMES.sub(MASK, one_line(text))
