"""The words that the tools' errors have in common."""

from __future__ import annotations

import pytest

from propulsion_tools.errors import UnknownNameError, check_name
from tests.error_messages import messages


@pytest.mark.parametrize(
    ("rest", "said"), [(None, "There are red, blue."), ("`paint --list` has them.", "`paint --list` has them.")]
)
def test_a_name_that_there_is_not_is_told_what_is_near_or_else_what_there_is(rest: str | None, said: str) -> None:
    check_name("colour", "red", ("red", "blue"), rest)
    with pytest.raises(UnknownNameError, match=r"^There is no colour 'rde'\. Did you mean 'red'\?$"):
        check_name("colour", "rde", ("red", "blue"), rest)
    with pytest.raises(UnknownNameError) as caught:
        check_name("colour", "green-ish", ("red", "blue"), rest)
    assert str(caught.value) == f"There is no colour 'green-ish'. {said}"


def test_names_that_there_are_not_are_refused_in_one_place() -> None:
    said = [message for message in messages() if message.error == "UnknownNameError"]
    assert {m.where.split(":")[0] for m in said if m.text.startswith("There is no")} == {"propulsion_tools/errors.py"}
