"""Which columns hold the text, its pair and the label: given, known for a named data set, or guessed and reported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from propulsion_tools.errors import DataError, near_misses
from propulsion_tools.tasks.raw_tables import Table

MOST_OF_A_NAME, WORDS_OF_A_NAME = 40, 3  # characters, words; what is longer is rather a text
_NUMBER = re.compile(r"[+-]?\d+([.,]\d*)?")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
TEXTS = ("text", "sentence", "article", "content", "document", "review", "tweet", "body", "comment", "message", "title")
OTHER_TASKS = (
    ({"ner_tags"}, "token-classification"),
    ({"tokens", "tags"}, "token-classification"),
    ({"tokens", "labels"}, "token-classification"),
    ({"words", "tags"}, "token-classification"),
    ({"words", "labels"}, "token-classification"),
    ({"words", "ner"}, "token-classification"),
    ({"question", "context", "answers"}, "question-answering"),
    ({"question", "context", "answer"}, "question-answering"),
    ({"document", "summary"}, "xsum"),
    ({"article", "highlights"}, "cnn_dailymail"),
    ({"dialogue", "summary"}, "xsum"),
    ({"article", "summary"}, "xsum"),
    ({"prompt", "completion"}, "language-modelling"),
    ({"instruction", "output"}, "language-modelling"),
    ({"messages"}, "language-modelling"),
    ({"conversations"}, "language-modelling"),
)
"""Columns that belong to another task than the classification of texts, and that task."""
LABELS = ("label", "labels", "label_id", "class", "category", "target", "sentiment", "emotion", "gold_label", "score")


@dataclass(frozen=True)
class Columns:
    """The columns that a task reads; ``None`` where there is none, or where nothing is given."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    def texts(self) -> list[str]:
        """The text columns that there are."""
        return [name for name in (self.text, self.pair) if name is not None]


def find_columns(table: Table, given: Columns, known: Columns, labelled: bool = True) -> tuple[Columns, str | None]:
    """Decide which columns to read.

    Args:
        table: Rows, of which only the names and the kind of the columns matter.
        given: What the user named; it is taken or refused, never ignored.
        known: What this data set calls them; taken where all of its text columns are there.
        labelled: Whether a label column is wanted.

    Returns:
        The columns, and a note if something was guessed.

    Raises:
        DataError: A named column is missing, or a column cannot be guessed; the message names those there are.
    """
    for option, name in (("text_column", given.text), ("text_pair_column", given.pair), ("label_column", given.label)):
        if labelled or option != "label_column":
            _refuse_missing(table, name, option)
    refuse_twice((given.text, given.pair, given.label))
    label = given.label or _first((known.label,), table) or _first(LABELS, table) if labelled else None
    if labelled and label is None:
        raise DataError(f"There is no label column: name it with --label_column.{_there(table)}{_other_task(table)}")
    text, pair = _text_columns(table, given, known, label)
    columns = Columns(text, pair, label)
    return columns, _guess(columns, given, known, labelled)


def _guess(columns: Columns, given: Columns, known: Columns, labelled: bool) -> str | None:
    """A note on the columns that were guessed, and on no other: not those that are named, or known of the data set."""
    asked = Columns(given.text or known.text, given.pair or known.pair, given.label or known.label)
    found = (
        ("the text", "--text_column", columns.text, asked.text),
        ("its pair", "--text_pair_column", columns.pair, asked.pair),
        ("the label", "--label_column", columns.label if labelled else None, asked.label),
    )
    guessed = [(what, option, name) for what, option, name, wanted in found if name is not None and name != wanted]
    if not guessed:
        return None
    read = ", ".join(f"{what} from {name!r}" for what, _, name in guessed).replace(" from ", " is read from ", 1)
    options = [option for _, option, _ in guessed]
    said = " and ".join(filter(None, (", ".join(options[:-1]), options[-1])))
    return f"Guessed from the column names: {read}; {said} {'says' if len(options) == 1 else 'say'} otherwise."


def unread_texts(table: Table, columns: Columns) -> str | None:
    """A note on the columns that look like text and are not read."""
    read = (columns.text, columns.pair, columns.label)
    names = [name for name, values in table.items() if name not in read and _is_worded(values)]
    if not names:
        return None
    said = "column {} looks like text and is" if len(names) == 1 else "columns {} look like text and are"
    option = "; --text_pair_column names the second text of a pair" if columns.pair is None else ""
    return f"The {said.format(', '.join(map(repr, names)))} not read{option}."


def refuse_twice(named: Iterable[str | None]) -> None:
    """Refuse one column for two things.

    Raises:
        DataError: One is named twice.
    """
    names = [name for name in named if name is not None]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"The column {twice!r} is named twice: the text, its pair and the label are three columns.")


def named_column(table: Table, given: str | None, usual: Sequence[str], option: str, what: str) -> str:
    """The column that the user named, or else the first of the usual names that there is.

    Args:
        table: Rows, of which only the names of the columns matter.
        given: What the user named; it is taken or refused.
        usual: Names that data sets give it.
        option: Where the user names it.
        what: What it holds.

    Raises:
        DataError: There is no such column; the message names those there are.
    """
    _refuse_missing(table, given, option)
    name = given or _first(usual, table)
    if name is None:
        raise DataError(f"Cannot tell which column holds {what}: name it with --{option}.{_there(table)}")
    return name


def _refuse_missing(table: Table, given: str | None, option: str) -> None:
    if given is not None and given not in table:
        raise DataError(f"There is no column {given!r} (--{option}).{near_misses(given, table)}{_there(table)}")


def _text_columns(table: Table, given: Columns, known: Columns, label: str | None) -> tuple[str, str | None]:
    if given.text is not None:
        known_pair = known.pair if known.pair in table and known.pair not in (given.text, label) else None
        return given.text, given.pair or known_pair
    if known.text is not None and all(name in table for name in known.texts()):
        return known.text, given.pair or known.pair
    taken = {label, given.pair}
    for first, second in PAIRS:
        one, other = _first((first,), table), _first((second,), table)
        if one and other and one not in taken and given.pair in (None, other):
            return one, other
    free = [name for name, values in table.items() if name not in taken and _is_text(values)]
    worded = [name for name in free if not all(map(_is_number, table[name][:100]))] or free
    text = _first(TEXTS, free) or (worded[0] if len(worded) == 1 else None)
    if text is None:
        lists = any(isinstance(values[0], list) for values in table.values() if len(values) == 1)
        one = " There is one row, of lists: each row is an object of its own." if lists else ""
        raise DataError(
            "Cannot tell which column holds the text: name it with --text_column, and the second of a pair with "
            f"--text_pair_column.{_there(table)}{one}"
            f"{_other_task(table)}"
        )
    return text, given.pair


def _first(names: Sequence[str | None], table: Iterable[str]) -> str | None:
    """The first of `names` that is a column, whatever its case."""
    there = {name.lower(): name for name in table}
    return next((there[name.lower()] for name in names if name is not None and name.lower() in there), None)


def _is_text(values: Sequence[object]) -> bool:
    return any(isinstance(value, str) for value in values[:100])


def _is_worded(values: Sequence[object]) -> bool:
    """Whether most of the values that there are have several words."""
    there = [value for value in values[:100] if value is not None]
    return 2 * sum(isinstance(value, str) and len(value.split()) > 1 for value in there) > len(there)


def _is_number(value: object) -> bool:
    """Whether it is no text, or one that is a number: in a .csv every value is a text."""
    return not isinstance(value, str) or _NUMBER.fullmatch(value.strip()) is not None


def _other_task(table: Iterable[str]) -> str:
    """The task that the columns look like, as the end of a message."""
    there = {name.lower() for name in table}
    task = next((task for names, task in OTHER_TASKS if names <= there), None)
    return f" They look like those of --task {task}." if task else ""


def _there(table: Table) -> str:
    names = list(table)
    data = any(len(name.split()) > WORDS_OF_A_NAME or len(name) > MOST_OF_A_NAME or _is_number(name) for name in names)
    header = " They look like a row of data: the first line names the columns." if data else ""
    return f" The columns are {', '.join(repr(name[:MOST_OF_A_NAME]) for name in names)}.{header}"
