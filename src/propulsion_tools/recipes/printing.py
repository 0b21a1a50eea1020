"""A recipe as a YAML file for `propulsion train --config`, with the origin of each value."""

from __future__ import annotations

from typing import Any

import yaml

from propulsion_tools.methods.paper_settings import plain_label
from propulsion_tools.recipes.catalogue import Recipe


def yaml_text(recipe: Recipe) -> str:
    """The recipe's values, one on a line, with the paper's numbers above and each value's origin beside it."""
    values, origins = recipe.values, recipe.origins
    pairs = [(f"{name}: {_scalar(value)}", origins[name]) for name, value in values.items()]
    width = max(len(text) for text, _ in pairs)
    return "\n".join([*_head(recipe), *(f"{text:<{width}}  # {origin}" for text, origin in pairs)]) + "\n"


def _head(recipe: Recipe) -> list[str]:
    first = recipe.results[0]
    unit = "%" if first.params_unit == "percent" else ""
    trained = f"; {first.trainable_params}{unit} of the parameters trained" if first.trainable_params else ""
    row = f"Table {recipe.table}, {recipe.model}, {recipe.dataset}, {plain_label(recipe.label)}"
    return [
        f"# {row}. The paper: {recipe.score}{trained}.",
        f"# Written by: propulsion recipes {recipe.name} --print. Run: propulsion train --recipe {recipe.name}",
        *([f"# Add {recipe.data.needs}."] if recipe.data.needs else []),
    ]


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if value < 1e-3 else f"{value:g}"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
