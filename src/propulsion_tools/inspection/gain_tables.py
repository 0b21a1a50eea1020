"""An adapter's description as text."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from propulsion_tools.inspection.places import KINDS, natural_key, stack_names
from propulsion_tools.inspection.saved_adapter import SavedAdapter, SavedLayer
from propulsion_tools.inspection.spread import Spread, spread

WIDTH, LISTED, BAR = 100, 10, 10
EIGHTHS = " ▏▎▍▌▋▊▉█"
COLUMNS = ("min", "5 %", "median", "95 %", "max", "std", "moved")
Groups = Mapping[str, Sequence[SavedLayer]]


def describe(adapter: SavedAdapter) -> str:
    """What is known of an adapter, as tables of at most 100 columns; in colour if standard output is a terminal."""
    is_terminal = sys.stdout.isatty()
    width = min(WIDTH, shutil.get_terminal_size().columns) if is_terminal else WIDTH
    text = io.StringIO()
    console = Console(
        file=text,
        width=max(width, 80),
        force_terminal=is_terminal,
        color_system="auto" if is_terminal else None,
        markup=False,
        highlight=False,
    )
    groups = (by_kind(adapter.layers), by_block(adapter.layers))
    parts = [
        _facts(adapter),
        _spreads(
            "Gain z^k, what outputs are multiplied with (moved: root mean square of gain - 1)",
            groups,
            of_gain=True,
        ),
        _spreads("z, the trained vectors", groups, of_gain=False),
        _most_moved(adapter.layers),
    ]
    for part in parts:
        console.print(part)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, "", _verdict(adapter.layers)])


def by_kind(layers: Iterable[SavedLayer]) -> dict[str, list[SavedLayer]]:
    """The layers by what they compute, in the order of a forward pass."""
    groups: dict[str, list[SavedLayer]] = {kind: [] for kind in KINDS.values()}
    for layer in layers:
        groups.setdefault(layer.place.kind, []).append(layer)
    return {kind: members for kind, members in groups.items() if members}


def by_block(layers: Sequence[SavedLayer]) -> dict[str, list[SavedLayer]]:
    """The layers by block, in natural order; those outside of the blocks come first."""
    inside = [layer for layer in layers if layer.place.block]
    stacks = stack_names(layer.place for layer in inside)
    groups: dict[str, list[SavedLayer]] = {"outside blocks": [layer for layer in layers if not layer.place.block]}
    in_order = sorted(inside, key=lambda layer: ("decoder" in layer.place.stack, natural_key(layer.place.block)))
    for layer in in_order:
        groups.setdefault(f"{stacks[layer.place.stack]} block {layer.place.block}".strip(), []).append(layer)
    return {block: members for block, members in groups.items() if members}


def _facts(adapter: SavedAdapter) -> Table:
    config = adapter.config
    facts = {
        "adapter": str(adapter.folder),
        "base model": config.base_model_name_or_path or "not recorded",
        "targets": f"{_targets(config.target_modules)} ({_many(len(adapter.layers), 'layer')})",
        "degree": _degrees(adapter),
        "vectors": _vectors(adapter),
        "adapter parameters": f"{adapter.vectors + adapter.biases:,}",
        "head parameters": "none",
        "file": f"{adapter.file_bytes:,} bytes",
    }
    if adapter.biases:
        facts["adapter parameters"] += f" ({adapter.vectors:,} in vectors, {adapter.biases:,} in biases)"
    if adapter.heads:
        facts["head parameters"] = f"{sum(adapter.heads.values()):,} ({', '.join(adapter.heads)})"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        table.add_row(name, fact)
    return table


def _targets(targets: object) -> str:
    if isinstance(targets, str) or targets is None:
        return str(targets)
    names = sorted(map(str, targets), key=natural_key)  # type: ignore[call-overload]
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def _degrees(adapter: SavedAdapter) -> str:
    """The degrees in use, the most frequent first, each with its number of layers if there are several."""
    counts: dict[tuple[int, ...], int] = {}
    for layer in adapter.layers:
        counts[layer.degree] = counts.get(layer.degree, 0) + 1
    ordered = sorted(counts, key=lambda degree: -counts[degree])
    names = {degree: _degree(degree) for degree in ordered}
    if len(counts) == 1:
        return names[ordered[0]]
    return ", ".join(f"{names[degree]} in {_many(counts[degree], 'layer')}" for degree in ordered)


def _degree(degree: tuple[int, ...]) -> str:
    return str(degree[0]) if len(set(degree)) == 1 else "/".join(map(str, degree))


def _vectors(adapter: SavedAdapter) -> str:
    count = adapter.config.num_vectors
    return "1 per layer" if count == 1 else f"{count} per layer, pooled by {adapter.config.pooling}"


def _spreads(title: str, sections: Sequence[Groups], of_gain: bool) -> Table:
    table = _table(title)
    table.add_column("", no_wrap=True)
    for heading in ("layers", *COLUMNS):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", width=BAR, no_wrap=True)
    for section in sections:
        rows = {
            name: spread([layer.gain if of_gain else layer.z for layer in layers]) for name, layers in section.items()
        }
        furthest = max((row.moved for row in rows.values()), default=0.0)
        for name, row in rows.items():
            table.add_row(name, str(len(section[name])), *_cells(row), bar(row.moved, furthest))
        table.add_section()
    return table


def _table(title: str) -> Table:
    return Table(
        title=f"\n{title}",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        title_style="bold",
    )


def _cells(row: Spread) -> list[str]:
    values = (row.least, row.low, row.median, row.high, row.most, row.deviation, row.moved)
    return [number(value) for value in values]


def _most_moved(layers: Sequence[SavedLayer]) -> Table:
    ordered = sorted(layers, key=lambda layer: -layer.moved)[:LISTED]
    title = "Layers that moved most, by the root mean square of gain - 1"
    table = _table(title)
    table.add_column("layer", overflow="fold")
    for heading in ("degree", "moved"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", width=BAR, no_wrap=True)
    table.add_column("furthest gain", justify="right", no_wrap=True)
    for layer in ordered:
        furthest = np.unravel_index(np.abs(layer.gain - 1).argmax(), layer.gain.shape)
        where = f"{number(layer.gain[furthest])} at {furthest[-1]}"
        table.add_row(layer.name, _degree(layer.degree), number(layer.moved), bar(layer.moved, ordered[0].moved), where)
    return table


def _verdict(layers: Sequence[SavedLayer]) -> str:
    if not any(layer.moved for layer in layers):
        return "Every gain is 1: this adapter changes nothing."
    gains = [layer.gain for layer in layers]
    total = sum(gain.size for gain in gains)
    notes = {
        "amplify": sum(int((gain > 1).sum()) for gain in gains),
        "damp": sum(int(((gain >= 0) & (gain < 1)).sum()) for gain in gains),
        "turn the sign": sum(int((gain < 0).sum()) for gain in gains),
    }
    shares = [f"{count / total:.0%} {what}" for what, count in notes.items() if count]
    return f"Of {_many(total, 'gain')}, {', '.join(shares)}."


def bar(value: float, longest: float, width: int = BAR) -> str:
    """A bar of block characters, `width` long for the longest value."""
    eighths = round(8 * width * value / longest) if longest > 0 else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def number(value: float) -> str:
    """Four places after the point, or three significant ones where that would show nothing, or too much."""
    is_small, is_large = 0 < abs(value) < 0.00095, abs(value) >= 1000
    return f"{value:.1e}" if is_small or is_large else f"{value:.4f}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
