"""What an error says where a name matches nothing in a model: what was meant, how to write it, and what there is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from propulsion.errors import near_misses, same_things

MOST_NAMES = 12


def listed(names: Iterable[str], conjunction: str = "or") -> str:
    """Names in quotes, the last after a conjunction."""
    *front, last = [repr(name) for name in names]
    return f"{', '.join(front)} {conjunction} {last}" if front else last


def endings_of_linears(modules: Mapping[str, nn.Module]) -> list[str]:
    """The last components of the names of a model's linear layers, which differ in what they are called."""
    names = [name.removesuffix(".base_layer") for name, m in modules.items() if isinstance(m, nn.Linear | Conv1D)]
    return sorted({ending for name in names if (ending := name.rpartition(".")[2]) and not ending.isdigit()})


def what_there_is(modules: Mapping[str, nn.Module]) -> str:
    """A clause, with a leading space, that says what the model's linear layers are called; or nothing."""
    names = endings_of_linears(modules)
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f" The linear layers of this model end in {listed(names[:MOST_NAMES], 'and')}{more}." if names else ""


def on_entry(entry: str, names: Iterable[str], presets: Iterable[str]) -> str:
    """What was meant by an entry of a list that is neither a module's name nor the end of one."""
    if entry in presets:
        return f" {entry!r} stands alone: give it as a string, not in a list."
    parts = [part for part in re.split(r"[,\s]+", entry) if part]
    if len(parts) > 1:
        return f" Give each name an entry of its own: {parts}."
    if re.search(r"[*+?\\|^$()\[\]]", entry):
        return " A list has names or their ends; a regular expression is given as a string."
    return near_misses(entry, _endings_as_deep(entry, names))


def on_pattern(pattern: str, names: Iterable[str], presets: Iterable[str]) -> str:
    """What was meant by a string that is no preset and, as a regular expression, matches no whole name."""
    names = list(names)
    parts = [part for part in re.split(r"[,\s]+", pattern) if part]
    ends = [part for part in parts if any(f".{name}".endswith(f".{part}") for name in names)]
    if ends == parts and not same_things(pattern, presets):
        whole = next(name for name in names if f".{name}".endswith(f".{ends[0]}"))
        return (
            f" A module has the name {whole!r}, of which {ends[0]!r} is the end only: write target_modules={ends}, "
            f"or {f'.*{ends[0]}'!r}."
        )
    return near_misses(pattern, presets) or near_misses(pattern, _endings_as_deep(pattern, names))


def on_blocks(numbers: Iterable[int | None]) -> str:
    """A clause, with a leading space, that says which blocks there are, of which there is one at least."""
    known = sorted(number for number in set(numbers) if number is not None)
    is_whole = len(known) > 1 and known == list(range(known[0], known[-1] + 1))
    return f" Blocks are numbered {f'{known[0]} to {known[-1]}' if is_whole else ', '.join(map(str, known))}."


def lists_of_blocks(names: Iterable[str]) -> list[str]:
    """What stands before a number in the names of modules, which is what `layers_pattern` takes."""
    return sorted({match[1] for name in names for match in re.finditer(r"(?:^|\.)([^.]*[^.\d][^.]*)\.\d+(?=\.)", name)})


def _endings_as_deep(entry: str, names: Iterable[str]) -> set[str]:
    """The ends of names that have as many components as the entry."""
    depth = entry.count(".") + 1
    return {".".join(name.split(".")[-depth:]) for name in names}
