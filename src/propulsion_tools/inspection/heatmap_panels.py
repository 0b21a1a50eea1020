"""What a heat map of an adapter shows, whatever draws it: a panel for each kind of layer, a row for each block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from propulsion_tools.inspection.places import KINDS, stack_names
from propulsion_tools.inspection.saved_adapter import Array, SavedAdapter, SavedLayer

# So many dimensions can be told apart in half a line.
HALF_LINE = 1024


@dataclass(frozen=True)
class Panel:
    """Layers of one kind and one size.

    Attributes:
        kind: What they compute.
        ending: The end of their names that they share.
        rows: A name for each row: the block, and what tells the rows of one block apart.
        values: z or the gain, of shape (rows, d_out).
    """

    kind: str
    ending: str
    rows: tuple[str, ...]
    values: Array

    @property
    def moved(self) -> Array:
        """The root mean square of value - 1 of each row."""
        moved: Array = np.sqrt(np.square(self.values - 1).mean(axis=1))
        return moved


def panels(adapter: SavedAdapter, quantity: str) -> list[Panel]:
    """The panels of "gain" or "z", in the order of a forward pass, their rows in model order."""
    kinds = list(KINDS.values())
    groups: dict[tuple[str, str, int], list[SavedLayer]] = {}
    for layer in adapter.layers:
        ending = layer.place.ending if layer.place.block else ""
        groups.setdefault((layer.place.kind, ending, layer.z.shape[1]), []).append(layer)
    ordered = sorted(groups.items(), key=lambda item: kinds.index(item[0][0]) if item[0][0] in kinds else len(kinds))
    return [_panel(kind, ending, layers, quantity) for (kind, ending, _), layers in ordered]


def _panel(kind: str, ending: str, layers: Sequence[SavedLayer], quantity: str) -> Panel:
    stacks = stack_names(layer.place for layer in layers)
    rows: list[str] = []
    for layer in layers:
        place = layer.place
        own = place.block or place.ending.rpartition(".")[2].removesuffix("_embeddings")
        name = f"{stacks[place.stack]} {own}".strip()
        rows += [name + mark for mark in _marks(layer, quantity)]
    values = np.concatenate([layer.gain if quantity == "gain" else layer.z for layer in layers])
    return Panel(kind, ending, tuple(rows), values)


def _marks(layer: SavedLayer, quantity: str) -> Sequence[str]:
    """What tells the rows of one layer apart: the sign of the output that a gain is for, or the vector's number."""
    if quantity == "gain":
        return ("",) if len(layer.gain) == 1 else (" V≥0", " V<0")
    return ("",) if len(layer.z) == 1 else [f" z{number}" for number in range(1, len(layer.z) + 1)]


def lines_of(shown: Sequence[Panel]) -> list[list[Panel]]:
    """The panels in lines of one or two: neighbours with equally many rows share a line, unless they are wide."""
    lines: list[list[Panel]] = []
    for panel in shown:
        if lines and len(lines[-1]) == 1 and _fit(lines[-1][0], panel):
            lines[-1].append(panel)
        else:
            lines.append([panel])
    return lines


def _fit(left: Panel, right: Panel) -> bool:
    return len(left.rows) == len(right.rows) and max(left.values.shape[1], right.values.shape[1]) <= HALF_LINE


def reach(shown: Sequence[Panel]) -> float:
    """Half the width of the colour scale around 1: the 99 % quantile of the distances from 1, but not below 0."""
    distances = np.concatenate([np.abs(panel.values - 1).ravel() for panel in shown])
    limit = float(np.quantile(distances, 0.99)) or float(distances.max()) or 1e-3
    return limit if any((panel.values < 0).any() for panel in shown) else min(limit, 1.0)


def needs_own_z(adapter: SavedAdapter) -> bool:
    """Whether z tells more than the gain does: with one vector and one degree k ≥ 1, z is but the gain's k-th root."""
    degrees = {layer.degree for layer in adapter.layers}
    return adapter.config.num_vectors > 1 or len(degrees) > 1 or degrees == {(0,)}


def heading(adapter: SavedAdapter) -> tuple[str, str]:
    """A title, and a line below it that says what was steered and how."""
    degrees = sorted({degree for layer in adapter.layers for degree in layer.degree})
    vectors = adapter.config.num_vectors
    facts = [
        f"base model {_short(adapter.config.base_model_name_or_path)}",
        f"{len(adapter.layers)} layers",
        f"degree {', '.join(map(str, degrees))}",
        *([f"{vectors} vectors pooled by {adapter.config.pooling}"] if vectors > 1 else []),
        f"{adapter.vectors:,} trained numbers",
    ]
    return f"The gain of every output dimension in “{adapter.folder.resolve().name}”", "  ·  ".join(facts)


def _short(base_model: str | None) -> str:
    """The last two parts of a path; a hub id has no more."""
    return "/".join(Path(base_model).parts[-2:]) if base_model else "not recorded"
