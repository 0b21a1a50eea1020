"""docs/errors.md has an entry for every error that we raise, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.error_messages import PAGE, entries, error_classes, has_words, messages, missing, shown, texts

TEXT = PAGE.read_text(encoding="utf-8")


def collected(tmp_path: Path, source: str) -> list[tuple[str, str]]:
    (tmp_path / "module.py").write_text(source, encoding="utf-8")
    return [(message.error, message.text) for message in messages(tmp_path)]


def test_every_message_has_an_entry() -> None:
    lines = [f"{message.where}\n    {message.error}: {message.text}" for message in missing()]
    assert not lines, "docs/errors.md lacks, in a block of the language `text`:\n" + "\n".join(lines)


def test_every_entry_is_of_a_message() -> None:
    raised = {(message.error, message.text) for message in messages()}
    assert entries(TEXT).keys() - raised == set(), "docs/errors.md has entries that nothing raises"


def test_every_entry_says_what_to_do() -> None:
    assert [text for text, advice in entries(TEXT).items() if len(advice.split()) < 5] == []


def test_no_message_has_two_entries() -> None:
    lines = [line for block in TEXT.split("```text\n")[1:] for line in block.split("\n```")[0].splitlines()]
    assert len(lines) == len(set(lines))


def test_every_class_is_in_the_table() -> None:
    for name in error_classes():
        assert f"\n| `{name}` |" in TEXT


def test_the_source_is_read() -> None:
    assert len(messages()) > 350
    assert {message.error for message in messages()} >= error_classes().keys() - {"PropulsionError"}


def test_the_words_of_every_error_are_found() -> None:
    without_words = [message for message in texts() if not has_words(message.text)]
    assert without_words
    assert [message.where for message in without_words if not message.hands_on] == []


def test_an_error_whose_words_are_not_found_is_told(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("raise DataError(words_of(something.far))", encoding="utf-8")
    assert [(message.text, message.hands_on) for message in texts(tmp_path)] == [("…", False)]


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ('raise DataError(f"Row {row} has no text.{hint}")', ["Row … has no text."]),
        ('raise DataError("One part, " "and another.")', ["One part, and another."]),
        ('raise DataError(f"{a} and {b} differ" + there)', ["… and … differ…"]),
        ('def f():\n    text = f"The name {x!r} is taken."\n    raise DataError(text)', ["The name … is taken."]),
        (
            'def f():\n    return "It is empty."\ndef g():\n    raise DataError(" ".join([f()]))',
            ["It is empty."],
        ),
        ('raise DataError("It is red." if red else "It is blue.")', ["It is red.", "It is blue."]),
        ('def not_finite():\n    return DataError("It is not finite.")', ["It is not finite."]),
        ('raise DataError(f"{where}: {error}") from error', []),
        ("raise DataError", []),
    ],
)
def test_what_is_read_of_a_raise(tmp_path: Path, source: str, read: list[str]) -> None:
    assert collected(tmp_path, source) == [("DataError", text) for text in read]


def test_errors_of_others_are_read_where_they_are_raised(tmp_path: Path) -> None:
    source = 'raise ImportError("PEFT is too old.")\nprint(ValueError("not raised at all"))'
    assert collected(tmp_path, source) == [("ImportError", "PEFT is too old.")]


def test_what_differs_is_shown_once() -> None:
    assert shown("…, … and  …") == "… and …"
    assert shown("It is none. …") == "It is none."
