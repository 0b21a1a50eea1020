"""A finished run whose folder was moved, or that is used from another folder than it was trained in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec

PATHS = ("model_name_or_path", "data_dir")


def located(spec: RunSpec, adapter_dir: Path, options: Any) -> RunSpec:
    """The spec of a finished run with its folders found again.

    A relative path that is not there is looked for from the run's folder on upwards: there it was when the run and what
    it names were moved together, or are used from elsewhere.

    Args:
        spec: From the run's record.
        adapter_dir: The run's folder.
        options: Of the command; a path that it names anew is left alone.

    Raises:
        OptionError: A path is nowhere, and the command has an option that could name it.
    """
    changes: dict[str, Any] = {}
    for name in PATHS:
        value = getattr(spec, name)
        if value is None or not hasattr(options, name) or getattr(options, name) is not None:
            continue
        changes[name] = _found(name, value, adapter_dir)
    return replace(spec, **changes)


def _found(name: str, value: str, adapter_dir: Path) -> str:
    folder = adapter_dir.resolve()
    places = [Path(value), *(parent / value for parent in (folder, *folder.parents))]
    # A run is often named like its data, and is neither data nor a base.
    found = next((place for place in places if place.exists() and place.resolve() != folder), None)
    if found is None and (name == "data_dir" or _is_path(value)):
        raise OptionError(
            f"The {name} of this run is {value}, and there is nothing there: say with --{name} where it is."
        )
    return value if found is None or found == places[0] else str(found)


def _is_path(value: str) -> bool:
    """Whether it can only be a path: a hub id is a name, or an owner and a name."""
    return os.path.isabs(value) or value.startswith((".", "~")) or value.strip("/").count("/") > 1
