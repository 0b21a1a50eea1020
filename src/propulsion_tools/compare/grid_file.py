"""A grid from its YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from propulsion_tools.compare.grid import EVERY_ROW, Grid, Rates, Settings
from propulsion_tools.errors import OptionError, near_misses, require
from propulsion_tools.records import refuse_unknown
from propulsion_tools.records.fields import AUTO
from propulsion_tools.records.repeats import first_repeated
from propulsion_tools.records.yaml_files import read_yaml

LARGEST = 2**32  # NumPy takes no larger seed
# YAML 1.1 takes 1e-3, without a point, for a text.
_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")


def read_grid(path: str | Path, **changes: Any) -> Grid:
    """The grid in a YAML file.

    Args:
        path: The file.
        **changes: Fields of `Grid` that win over the file's if they are not None.

    Raises:
        OptionError: There is no such file, it is not YAML, or it is not a grid that can be run.
        UnknownNameError: A method, task or key is unknown; names the near misses.
    """
    file = Path(path)
    if not file.is_file():
        others = [str(other) for other in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise OptionError(f"There is no grid {str(path)!r}.{near_misses(str(path), others)}")
    values = read_yaml(file, _loader(require("yaml", "train")))
    if not isinstance(values, dict):
        raise OptionError(f"{file} must hold a grid as `name: value` lines: methods, tasks, settings and so on.")
    grid = grid_from(values, file.stem)
    return replace(grid, **{name: value for name, value in changes.items() if value is not None})


def _loader(yaml: Any) -> Any:
    def construct_mapping(loader: Any, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := first_repeated(names):
            raise yaml.constructor.ConstructorError(problem=f"{twice[0]!r} stands twice", problem_mark=node.start_mark)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)

    loader: Any = type("Loader", (yaml.SafeLoader,), {"construct_mapping": construct_mapping})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return loader


def grid_from(values: Mapping[str, Any], name: str) -> Grid:
    """The grid that these words describe: `methods` and `tasks` may be lists of names, `variants` are more rows.

    Args:
        values: By the name of a field of `Grid`, and ``variants``.
        name: Taken if the words give none.

    Raises:
        OptionError: A part is missing or of the wrong kind, or a label is there twice.
        UnknownNameError: A method, task or key is unknown; names the near misses.
    """
    refuse_unknown(values, [*(item.name for item in fields(Grid)), "variants"], "key of a grid")
    parts = {"name": name, **{key: value for key, value in values.items() if value is not None}}
    methods, variants = (_rows(parts.pop(key, {}), key, "method") for key in ("methods", "variants"))
    if twice := methods.keys() & variants.keys():
        raise OptionError(f"The row {min(twice)!r} is among the methods and among the variants: rename one.")
    parts |= {"methods": {**methods, **variants}, "tasks": _rows(parts.get("tasks", {}), "tasks", "task")}
    parts["learning_rates"] = {label: _rates(some) for label, some in _by_row(parts, "learning_rates").items()}
    heads = _by_row(parts, "head_learning_rates")
    parts["head_learning_rates"] = {label: _numbers(some, "head_learning_rates") for label, some in heads.items()}
    for key in ("seeds", "train_sizes"):
        if key in parts:
            parts[key] = _numbers(parts[key], key, int)
    for key in ("settings", "selection"):
        if not isinstance(parts.get(key, {}), Mapping):
            raise OptionError(f"{key} must hold fields of a run as `name: value` lines, and not {parts[key]!r}.")
    _check_words(parts)
    return Grid(**parts)


def _rows(words: Any, key: str, field: str) -> dict[str, Settings]:
    """Settings by label, from a list of names or a mapping."""
    if isinstance(words, str):
        words = [words]
    if isinstance(words, list) and all(isinstance(name, str) for name in words):
        if twice := first_repeated(words):
            raise OptionError(f"{twice[0]!r} stands twice in {key}.")
        words = dict.fromkeys(words)
    if not isinstance(words, Mapping) or not all(isinstance(row, Mapping | None) for row in words.values()):
        raise OptionError(f"{key} must be a list of names, or `label: {{{field}: name, ...}}` lines.")
    return {str(label): {field: str(label), **(row or {})} for label, row in words.items()}


def _by_row(parts: Mapping[str, Any], key: str) -> dict[str, Any]:
    said = parts.get(key, {})
    return {str(label): some for label, some in (said if isinstance(said, Mapping) else {EVERY_ROW: said}).items()}


def _rates(values: Any) -> Rates:
    return AUTO if values == AUTO else _numbers(values, "learning_rates")


def _numbers(values: Any, key: str, kind: type[float] | type[int] = float) -> tuple[Any, ...]:
    listed = values if isinstance(values, list | tuple) else [values]
    for value in listed:
        is_number = isinstance(value, int | kind) and not isinstance(value, bool) and abs(value) < LARGEST
        is_allowed = value is None and key == "train_sizes"
        if not is_allowed and not (is_number and (value > 0 or (key == "seeds" and value == 0))):
            wanted = "whole numbers" if kind is int else "numbers above 0"
            raise OptionError(f"{key} must be a list of {wanted} below 2^32, and not {value!r}.")
    if twice := first_repeated(listed):
        raise OptionError(f"{twice[0]!r} stands twice in {key}.")
    return tuple(listed)


def _check_words(parts: dict[str, Any]) -> None:
    for key in ("name", "data_root", "output_dir", "title"):
        if not isinstance(parts.get(key, ""), str):
            raise OptionError(f"{key} must be a text, and not {parts[key]!r}.")
    if not isinstance(parts.get("keep_weights", True), bool):
        raise OptionError(f"keep_weights must be true or false, and not {parts['keep_weights']!r}.")
    notes = parts.get("notes", ())
    if not isinstance(notes, str | list | tuple) or not all(isinstance(note, str) for note in notes):
        raise OptionError(f"notes must be a list of sentences, and not {notes!r}.")
    parts["notes"] = (notes,) if isinstance(notes, str) else tuple(notes)
