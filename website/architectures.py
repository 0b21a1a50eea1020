"""docs/architectures.md, from the table of architectures.

python -m website.architectures > docs/architectures.md
"""

from __future__ import annotations

from propulsion.architectures import ARCHITECTURES, Architecture

HEAD = """# Supported architectures

Generated from `src/propulsion/architectures.py` by `make reference`: do not edit.

For these {count} architectures the presets of `target_modules` know which layers to steer: `all`, `attn`, `mlp`,
`embedding`, `query`, `key` and `value`. A model's architecture is `model.config.model_type`.

Any other model works as well, by a list of module names, a regular expression or PEFT's `all-linear`. Linear layers,
GPT-2's `Conv1D`, embeddings, convolutions in one to three dimensions, LayerNorms, group norms, batch norms, and linear
layers quantized by bitsandbytes can be steered. RMSNorms cannot, nor can the parts of `nn.MultiheadAttention`.

Where one layer computes queries, keys and values, they cannot be steered one by one: use `attn`. Where the feed-forward
parts are a mixture of experts, `all` and `mlp` steer every expert, with gains of its own, and never the router.
"""
KINDS = {
    "embedding": "embeddings",
    "query": "queries",
    "key": "keys",
    "value": "values",
    "fused": "queries, keys and values together",
    "attention_output": "after the attention",
    "mlp": "feed-forward",
    "experts": "stacked experts",
    "other": "other layers of a block, in `all` alone",
}
"""Field of an `Architecture` → what the page calls it."""


def page() -> str:
    """The whole page, in Markdown."""
    head = HEAD.format(count=len(ARCHITECTURES)).rstrip()
    overview = _table(
        ["model_type", "presets beside `all`, `attn`, `mlp`, `embedding`", "mixture of experts"],
        [_overview(names, layout) for names, layout in _layouts()],
    )
    sections = [_section(names, layout) for names, layout in _layouts()]
    where = (
        "## Where each keeps its layers\n\nThe ends of the modules' names; `*` stands for any characters but a dot. "
        "All but the embeddings follow the block."
    )
    return "\n\n".join([head, overview, where, *sections]) + "\n"


def _layouts() -> list[tuple[list[str], Architecture]]:
    """Each layout once, with the architectures that have it."""
    layouts: list[tuple[list[str], Architecture]] = []
    for name, layout in ARCHITECTURES.items():
        known = [names for names, other in layouts if other == layout]
        if known:
            known[0].append(name)
        else:
            layouts.append(([name], layout))
    return layouts


def _overview(names: list[str], layout: Architecture) -> list[str]:
    alone = [f"`{preset}`" for preset in ("query", "key", "value") if layout.endings(preset)]
    types = ", ".join(f"`{name}`" for name in names)
    return [types, ", ".join(alone) or "–", "yes" if layout.experts else "–"]


def _section(names: list[str], layout: Architecture) -> str:
    rows = [
        [words, ", ".join(f"`{ending}`" for ending in getattr(layout, field))]
        for field, words in KINDS.items()
        if getattr(layout, field)
    ]
    return f"### {', '.join(names)}\n\nBlock: `{layout.block}`\n\n{_table(['What', 'Modules'], rows)}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ["---"] * len(headings), *rows])


if __name__ == "__main__":
    print(page(), end="")
