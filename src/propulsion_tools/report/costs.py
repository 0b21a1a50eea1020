"""What the rows of a grid cost: counts, which are exact, and times and memory, which the machine's noise is in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from propulsion_tools.records import RunRecord
from propulsion_tools.report.noise import Groups, MachineNoise

MEASURED: Mapping[str, Callable[[RunRecord], float]] = {
    "train_seconds": lambda record: record.seconds.get("steps") or record.seconds["train"],
    "step_seconds": lambda record: record.seconds["per_step_median"],
    "peak_bytes": lambda record: record.peak_memory_bytes,
    "training_bytes": lambda record: max(0, record.peak_memory_bytes - record.memory_bytes.get("start", 0)),
}
"""What the machine's noise is in, by the names of `Costs`."""


@dataclass(frozen=True)
class Costs:
    """Medians over a row's final runs, with what the machine's noise makes of them."""

    adapter: int
    head: int
    train_seconds: float
    step_seconds: float
    peak_bytes: int
    weight_bytes: int
    training_bytes: int
    adapter_bytes: int
    widths: Mapping[str, float] = field(default_factory=dict)
    """Half of the 95 % interval as a share, of the costs that are measured, by name; none where there is one run."""

    @property
    def trainable(self) -> int:
        """Adapter and head."""
        return self.adapter + self.head


MEBI = 2**20
Records = Sequence[Sequence[RunRecord]]
"""The final records of a row, of each column of the report."""
Noise = Mapping[str, MachineNoise]
"""Of the costs in `MEASURED` that are known for two equal runs."""


def measured(by_column: Records, name: str) -> Groups:
    """One of the costs in `MEASURED` of each run."""
    return [[MEASURED[name](record) for record in group] for group in by_column]


def noise_of(rows: Sequence[Records]) -> Noise:
    """The noise of the machine in each measured cost, from all rows of a grid."""
    found = {name: MachineNoise.of([group for row in rows for group in measured(row, name)]) for name in MEASURED}
    return {name: noise for name, noise in found.items() if noise is not None}


def costs_of(by_column: Records, noise: Noise) -> Costs | None:
    """The costs of a row; None of no run.

    Args:
        by_column: Its runs.
        noise: That of the grid.
    """
    records = [record for group in by_column for record in group]
    if not records:
        return None

    def middle(read: Callable[[RunRecord], float]) -> float:
        return statistics.median(read(record) for record in records)

    return Costs(
        int(middle(lambda record: record.parameters["adapter"])),
        int(middle(lambda record: record.parameters["head"])),
        middle(MEASURED["train_seconds"]),
        middle(MEASURED["step_seconds"]),
        int(middle(MEASURED["peak_bytes"])),
        int(middle(lambda record: record.memory_bytes.get("weights", 0))),
        int(middle(MEASURED["training_bytes"])),
        int(middle(lambda record: record.adapter_bytes)),
        {name: of.width(measured(by_column, name)) for name, of in noise.items()},
    )
