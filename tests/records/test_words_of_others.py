"""Each word of others leads to an option that exists, and none of them is an option itself where it leads away."""

from __future__ import annotations

from dataclasses import fields

import pytest

from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.records.words_of_others import WORDS_OF_OTHERS, meant

OPTIONS = {command: {item.name for item in fields(COMMANDS[command].options)} for command in COMMANDS}


@pytest.mark.parametrize("option", WORDS_OF_OTHERS)
def test_each_target_is_an_option(option: str) -> None:
    assert any(option in options for options in OPTIONS.values())


@pytest.mark.parametrize("option", WORDS_OF_OTHERS)
def test_each_word_is_of_use_somewhere(option: str) -> None:
    for word in WORDS_OF_OTHERS[option].split():
        assert any(option in options and word not in options for options in OPTIONS.values())
        assert option in meant(word.upper(), [option])


def test_only_what_a_command_has_is_meant() -> None:
    assert meant("lr", ["learning_rate"]) == ("learning_rate",)
    assert meant("lr", ["seed"]) == ()
