"""Where a layer sits in its model, read off its name: what it computes, in which stack, in which block."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from propulsion.architectures import ARCHITECTURES, Architecture, any_of

# The kinds of layers, in the order of a forward pass, by their name in `Architecture`. Attention goes before the
# feed-forward part because BERT's `attention.output.dense` also ends like its `output.dense`.
KINDS = {
    "embedding": "embedding",
    "query": "query",
    "key": "key",
    "value": "value",
    "fused": "fused qkv",
    "attention_output": "attention output",
    "mlp": "mlp",
    "other": "other",
}


@dataclass(frozen=True)
class Place:
    """Where a layer sits.

    Attributes:
        kind: One of `KINDS`' values; the last word of its name if no supported architecture has such a layer.
        stack: What stands before the block's number, `roberta.encoder` for example.
        block: The block's number, as text; empty outside of the blocks.
        ending: What stands after the block's number, `attention.self.query` for example.
    """

    kind: str
    stack: str
    block: str
    ending: str


def place_of(name: str) -> Place:
    """Read a place off a layer's full name, by the table of supported architectures, else by its numbers."""
    for kind in KINDS:
        for architecture in _layouts():
            match = _pattern(architecture, kind).fullmatch(name)
            if match:
                numbers = re.findall(r"\.(\d+)", match["block"] or "")
                return Place(KINDS[kind], match["stack"] or "", numbers[0] if numbers else "", match["ending"])
    parts = name.split(".")
    numbered = [position for position, part in enumerate(parts) if part.isdigit()]
    if not numbered or numbered[-1] == len(parts) - 1:
        words = [part for part in parts if not part.isdigit()] or parts
        block = ".".join(parts[position] for position in numbered)
        return Place(words[-1], ".".join(words[:-1]), block, words[-1])
    block = ".".join(parts[position] for position in numbered)
    return Place(parts[-1], ".".join(parts[: numbered[0]]), block, ".".join(parts[numbered[-1] + 1 :]))


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """A key for sorting that puts 2 before 10."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)


def model_order(place: Place) -> tuple[object, ...]:
    """A key for sorting places as a forward pass meets them: embeddings, then block by block, encoder first."""
    kinds = list(KINDS.values())
    kind = kinds.index(place.kind) if place.kind in kinds else len(kinds)
    return (
        kinds[0] != place.kind,
        "decoder" in place.stack,
        natural_key(place.stack),
        natural_key(place.block),
        kind,
        natural_key(place.ending),
    )


def stack_names(places: Iterable[Place]) -> dict[str, str]:
    """A short name for each stack: none if there is one only, else its last word, else all of them."""
    stacks = list(dict.fromkeys(place.stack for place in places))
    if len(stacks) < 2:
        return dict.fromkeys(stacks, "")
    short = [stack.rpartition(".")[2] for stack in stacks]
    return dict(zip(stacks, short if len(set(short)) == len(stacks) else stacks, strict=True))


@cache
def _layouts() -> tuple[Architecture, ...]:
    return tuple(dict.fromkeys(ARCHITECTURES.values()))


@cache
def _pattern(architecture: Architecture, kind: str) -> re.Pattern[str]:
    block = "" if kind == "embedding" else rf"{any_of([architecture.block])}\."
    return re.compile(rf"(?:(?P<stack>.+)\.)?(?P<block>\b{block})(?P<ending>{any_of(getattr(architecture, kind))})")
