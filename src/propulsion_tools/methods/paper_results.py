"""The numbers that the paper reports, as data: tables 1–3, 5 and 9–23."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class PaperResult:
    """One number of one table."""

    table: str
    model: str
    dataset: str
    method: str
    """The paper's own label, which differs between tables."""
    trainable_params: str
    """As printed, for example 0.086M; percent in the tables of large models."""
    params_unit: str
    metric: str
    value: str


@cache
def paper_results() -> tuple[PaperResult, ...]:
    """Every number, in the order of the tables."""
    text = files("propulsion_tools.methods").joinpath("paper_results.csv").read_text(encoding="utf-8")
    return tuple(PaperResult(**row) for row in csv.DictReader(text.splitlines()))


def paper_parameters(model: str) -> dict[tuple[str, str], str]:
    """Trainable parameters in millions that the paper prints for a model, by table and label."""
    rows = [row for row in paper_results() if row.model == model and row.params_unit == "millions"]
    return {(row.table, row.method): row.trainable_params for row in rows}
