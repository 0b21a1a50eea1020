"""Fields of `RunSpec` as they stand in a file: known, of the right type, in range, and nobody else's to say."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from propulsion_tools.errors import OptionError, require
from propulsion_tools.records import RunSpec, refuse_unknown

# What the grid itself decides, and where it is said instead.
_ELSEWHERE = {
    "learning_rate": "say it with learning_rates",
    "seed": "say it with seeds",
    "selection_fraction": "say it with selection",
    "output_dir": "say it with the output_dir of the grid",
    "overwrite_output_dir": "finished runs are kept, and others replaced",
    "resume_from_checkpoint": "a grid goes on by itself where it was killed",
    "smoke": "try the settings with `propulsion train --smoke`",
}


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
        if name in _ELSEWHERE and name not in but:
            raise OptionError(f"{name} does not belong in {where}: {_ELSEWHERE[name]}.")
        _check_type(name, value, where)
    RunSpec(**settings)


def _check_type(name: str, value: Any, where: str) -> None:
    parser = _parser()
    try:
        parser.parse_object({name: value})
    except require("jsonargparse", "train").ArgumentError as error:
        wanted = RunSpec.__dataclass_fields__[name].type
        raise OptionError(f"{name} cannot be {value!r} in {where}; it takes {wanted}.") from error


@cache
def _parser() -> Any:
    """A parser with the types of a run's fields, the same as the command line's."""
    parser = require("jsonargparse", "train").ArgumentParser(exit_on_error=False)
    hints = typing.get_type_hints(RunSpec)
    for item in fields(RunSpec):
        parser.add_argument(f"--{item.name}", type=hints[item.name], default=item.default)
    return parser
