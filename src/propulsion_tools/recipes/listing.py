"""Recipes as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from propulsion_tools.recipes.catalogue import Recipe
from propulsion_tools.training.console import table


def listing(rows: Sequence[Recipe]) -> list[Table | str]:
    """Each recipe with its task, its method and the paper's score, and below them why some cannot be run."""
    cells = [[row.name, row.task, row.method, row.score] for row in rows]
    refused = [f"{row.name} cannot be run: {row.refusal}" for row in rows if row.refusal]
    ready = f"{len(rows) - len(refused)} of {len(rows)} can be run"
    return [
        table("Recipes", ["--recipe", "task", "method", "the paper's score"], cells),
        *refused,
        f"{ready}: propulsion train --recipe NAME (with --smoke: two steps on a tiny model)",
    ]
