"""What is known about an option, said once where its field is declared, and read from there by everyone.

`option` declares a field of any command's options, `run_option` one of a run's, `borrow` one that another class has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from functools import cache, partial
from types import NoneType
from typing import Any, get_args, get_type_hints

from propulsion_tools.errors import OptionError, UnknownNameError, did_you_mean, near_misses
from propulsion_tools.records.words_of_others import meant


@dataclass(frozen=True)
class Values:
    """Which values an option takes, beside those that its type rules out.

    Attributes:
        wanted: For the message, after "must be".
        holds: Whether a value is one of them; None is not asked about where the type allows it.
        choices: All of them, where they can be listed.
    """

    wanted: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def _number(wanted: str, holds: Callable[[Any], bool]) -> Values:
    return Values(wanted, lambda v: isinstance(v, int | float) and not isinstance(v, bool) and holds(v))


ANY = Values("anything", lambda v: True)
"""Whatever the type allows; what uses the option may refuse more."""
SEED = _number("a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32)
NOT_NEGATIVE = _number("a number of at least 0", lambda v: math.isfinite(v) and v >= 0)
ABOVE_ZERO = _number("a number above 0", lambda v: math.isfinite(v) and v > 0)
STEPS_OR_SHARE = _number(
    "a whole number of steps, or a share of them below 1", lambda v: 0 < v < 1 or (math.isfinite(v) and v == int(v) > 0)
)
SHARE = _number("a share of at least 0 and below 1", lambda v: 0 <= v < 1)
ONE_RUN = "This is one run: a grid of several is for `propulsion compare`."
AUTO = "auto"
ABOVE_ZERO_OR_AUTO = Values("a number above 0, or 'auto'", lambda v: v == AUTO or ABOVE_ZERO.holds(v), (AUTO,))
SHARE_OR_MODEL = Values(
    "a share of at least 0 and below 1, or 'model'", lambda v: v == "model" or SHARE.holds(v), ("model",)
)
METHOD_ARGS = "method_args"
OF_A_METHOD = f' Arguments of the method itself go into {METHOD_ARGS}, by its names for them: "{{r: 8}}".'
FINITE = _number("a finite number", math.isfinite)


def at_least(least: int) -> Values:
    """Integers from `least` on."""
    return _number(f"an integer of at least {least}", lambda v: isinstance(v, int) and v >= least)


AT_LEAST_ONE = at_least(1)


def one_of(*choices: str | bool) -> Values:
    """These words, and true or false where they are among them."""
    words = tuple(str(choice).lower() if isinstance(choice, bool) else choice for choice in choices)
    return Values(f"one of {', '.join(words)}", lambda v: any(type(v) is type(c) and v == c for c in choices), words)


class Argument(Enum):
    """How an option of a run reaches `TrainingArguments`."""

    SAME = "as it is, under the same name"
    DERIVED = "with others, or changed, or through the trainer's methods"
    NONE = "not at all"


@dataclass(frozen=True)
class RunFacts:
    """What is known about a field of a run beside its help and its values.

    Attributes:
        identity: Whether it decides what a run computes, and so the folder that a grid gives the run.
        may_change: Whether a resumed run may have another value than the run that was killed.
        argument: How it reaches `TrainingArguments`.
        override: The commands that may say it anew for a finished run.
        elsewhere: Where a grid says it instead, as the end of a sentence; None: like any other field.
        smoke: From its value to the one that a trial of two steps has; None: the same.
        method: The method that alone reads it; None: it is no method's own.
        before: What a run had whose record is older than the field, or that said nothing while it had another default;
            `NOW`: there is none.
    """

    identity: bool
    may_change: bool
    argument: Argument
    override: tuple[str, ...]
    elsewhere: str | None
    smoke: Callable[[Any], Any] | None
    method: str | None
    before: Any


NOW = object()
"""For `RunFacts.before`: the field is as old as the records, and has always had this default."""


def option(group: str, default: Any, text: str, values: Values = ANY) -> Any:
    """A field whose documentation is the command line's help.

    Args:
        group: The heading that it stands under.
        default: Its value where none is given.
        text: The help.
        values: Which values it takes.
    """
    return field(default=default, metadata={"group": group, "help": text, "values": values})


def run_option(
    default: Any,
    text: str,
    values: Values,
    *,
    group: str,
    identity: bool,
    may_change: bool,
    argument: Argument,
    override: tuple[str, ...],
    elsewhere: str | None = None,
    smoke: Callable[[Any], Any] | None = None,
    method: str | None = None,
    before: Any = NOW,
) -> Any:
    """A field of a run; see `option` and `RunFacts`. What has no default has to be said for every field."""
    facts = RunFacts(identity, may_change, argument, override, elsewhere, smoke, method, before)
    return field(default=default, metadata={"group": group, "help": text, "values": values, "facts": facts})


def borrow(source: type, name: str, *, default: Any = MISSING, text: str | None = None) -> Any:
    """A field that `source` declares: its values, and its default and its help unless others are given."""
    item = next(item for item in fields(source) if item.name == name)
    said = {"group": "options", "help": text or item.metadata["help"], "values": item.metadata["values"]}
    return field(default=item.default if default is MISSING else default, metadata={**said, "borrowed": True})


def set_to(value: Any) -> Callable[[Any], Any]:
    """For `RunFacts.smoke`: this value, whatever it was."""
    return lambda _: value


def at_most(most: int) -> Callable[[Any], Any]:
    """For `RunFacts.smoke`: the value, but no more than this."""
    return partial(min, most)


def facts_of(cls: type) -> dict[str, RunFacts]:
    """What is known about each field.

    Raises:
        TypeError: A field was not declared with `run_option`, or is a number without a bound.
    """
    facts = {}
    for item in fields(cls):
        if "facts" not in item.metadata:
            raise TypeError(f"{cls.__name__}.{item.name} does not say what it is part of: declare it with run_option.")
        if item.metadata["values"] is ANY and _kinds(cls)[item.name] & {int, float} == _kinds(cls)[item.name]:
            raise TypeError(f"{cls.__name__}.{item.name} is a number: say which values it takes.")
        facts[item.name] = item.metadata["facts"]
    return facts


def borrowed_fields(cls: type) -> list[str]:
    """The names of the fields that were declared with `borrow`."""
    return [item.name for item in fields(cls) if "borrowed" in item.metadata]


class Checked:
    """A dataclass whose values are checked, and lists made tuples, as soon as there is one."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, list):
                object.__setattr__(self, item.name, tuple(value))
            _check_value(type(self), item, value)


def _check_value(cls: type, item: Field[Any], value: Any) -> None:
    if value is None and NoneType in get_args(hints(cls)[item.name]):
        return
    values: Values = item.metadata["values"]
    if not values.holds(value):
        several = isinstance(value, str) and "," in value
        hint = near_misses(str(value), values.choices) or (f" {ONE_RUN}" if several else "")
        raise OptionError(f"{item.name} must be {values.wanted}, and not {value!r}.{hint}")


@cache
def hints(cls: type) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    return get_type_hints(cls)


@cache
def _kinds(cls: type) -> dict[str, set[Any]]:
    """For each field, the types that its value may have beside None."""
    return {name: {*(get_args(hint) or (hint,))} - {NoneType} for name, hint in hints(cls).items()}


def type_text(cls: type, name: str) -> str:
    """The type of a field, as it is written."""
    hint = hints(cls)[name]
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def refuse_unknown(values: Mapping[str, Any], known: list[str], what: str) -> None:
    """Raise `UnknownNameError` for the first key of `values` that is not `known`; names what it was meant to be."""
    for key in values:
        if key not in known:
            raise UnknownNameError(f"{key!r} is no {what}.{_hint(str(key), known)}")


def _hint(key: str, known: list[str]) -> str:
    names = meant(key, known)
    hint = did_you_mean([name for name in names if name != METHOD_ARGS]) or near_misses(key, known)
    return OF_A_METHOD if METHOD_ARGS in (names if hint else known) else hint
