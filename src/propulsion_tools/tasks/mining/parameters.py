"""The parameters that a docstring describes, in the styles of NumPy and Google."""

from __future__ import annotations

import re
from dataclasses import dataclass

from propulsion_tools.errors import require
from propulsion_tools.tasks.mining.source import Documented, one_line

_NUMPY = re.compile(r"^(?:Other )?Parameters\n[-=]{4,}", re.MULTILINE)
_GOOGLE = re.compile(r"^(?:Args|Arguments|Parameters):[ \t]*$", re.MULTILINE)
_EQUALS = re.compile(r"^=+$", re.MULTILINE)  # SymPy underlines with "=" what NumPy underlines with "-"
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Described:
    """A docstring in parts.

    Args:
        prose: The paragraphs before the first section.
        parameters: Description by name, each on one line; those without a description are left out.
    """

    prose: str
    parameters: dict[str, str]


def described(documented: Documented) -> Described | None:
    """The docstring in parts; None if it describes no parameters in either style.

    Raises:
        MissingExtraError: docstring-parser is not installed.
    """
    text = documented.docstring
    numpy = _NUMPY.search(text)
    if numpy is None and _GOOGLE.search(text) is None:
        return None
    parser = require("docstring_parser", "train")
    try:
        parsed = (parser.google if numpy is None else parser.numpydoc).parse(_EQUALS.sub(_dashes, text))
    except parser.ParseError:
        return None
    parameters = {
        name: one_line(item.description)
        for item in parsed.params
        if item.args[0] == "param" and item.description and _NAME.fullmatch(name := item.arg_name.strip("`* "))
    }
    prose = "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)
    return Described(prose, parameters) if parameters else None


def _dashes(rule: re.Match[str]) -> str:
    return "-" * len(rule[0])
