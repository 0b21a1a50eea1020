"""Fields of `RunSpec` as they stand in a file: known, of the right type, in range, and nobody else's to say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from propulsion_tools.errors import OptionError, require
from propulsion_tools.records import RUN_FACTS, RunSpec, refuse_unknown
from propulsion_tools.records.fields import hints, type_text


def check_settings(settings: Mapping[str, Any], where: str, but: Collection[str] = ()) -> None:
    """Check fields of a run before any run is made of them.

    Args:
        settings: Values by the name of a field.
        where: The part of the grid that they stand in, for the message.
        but: Fields that are allowed here although a grid decides them elsewhere.

    Raises:
        UnknownNameError: There is no such field; names the near misses.
        OptionError: A value is of the wrong type or out of range, or the field is not to be said here.
    """
    refuse_unknown(settings, [item.name for item in fields(RunSpec)], f"field of a run (in {where})")
    for name, value in settings.items():
        if (elsewhere := RUN_FACTS[name].elsewhere) and name not in but:
            raise OptionError(f"{name} does not belong in {where}: {elsewhere}.")
        _check_type(name, value, where)
    RunSpec(**settings)


def _check_type(name: str, value: Any, where: str) -> None:
    try:
        _parser(name).parse_object({name: value})
    except require("jsonargparse", "train").ArgumentError as error:
        wanted = type_text(RunSpec, name)
        raise OptionError(f"{name} cannot be {value!r} in {where}; it takes {wanted}.") from error


@cache
def _parser(name: str) -> Any:
    """A parser with the type of a run's field, as the command line's; one of all fields would check all each time."""
    parser = require("jsonargparse", "train").ArgumentParser(exit_on_error=False)
    default = next(item.default for item in fields(RunSpec) if item.name == name)
    parser.add_argument(f"--{name}", type=hints(RunSpec)[name], default=default)
    return parser
