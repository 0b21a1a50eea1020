"""docs/cli.md says what the command line takes, and its types have words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.cli.annotations import in_words, takes_bool
from propulsion_tools.cli.commands import COMMANDS, Command
from propulsion_tools.cli.reference import reference
from propulsion_tools.records.fields import option

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "docs/cli.md is out of date: run `make reference`"


def test_the_page_names_every_option_once_for_each_command() -> None:
    _, *sections = reference().split("\n## ")
    assert [section.splitlines()[0] for section in sections] == list(COMMANDS)
    for section, command in zip(sections, COMMANDS.values(), strict=True):
        for item in fields(command.options):
            assert section.count(f"| `--{item.name}` |") == 1


def test_a_new_option_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class More:
        colour: str = option("options", "red", "red | <name>")

    monkeypatch.setitem(COMMANDS, "tasks", Command("list the tasks", More, print))
    assert r"| `--colour` | text | `red` | red \| \<name> |" in reference()


@pytest.mark.parametrize(
    ("hint", "words", "switch"),
    [
        (float | None, "number or null", False),
        (bool, "true or false", True),
        (bool | str | None, "true or false, text or null", True),
        (str | tuple[str, ...] | None, "text, list of texts or null", False),
        (dict[str, int | list[int]] | None, "mapping or null", False),
        (tuple[int, ...], "list of integers", False),
        (dict[str, bool], "mapping", False),
    ],
)
def test_types_have_words(hint: Any, words: str, switch: bool) -> None:
    assert in_words(hint) == words
    assert takes_bool(hint) is switch


def test_a_type_without_words_is_an_error() -> None:
    with pytest.raises(TypeError, match="No words for the type"):
        in_words(complex)
