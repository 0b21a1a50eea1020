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
"""What the machine's noise is in, by the names of `Measured`."""


@dataclass(frozen=True)
class Measured:
    """Medians of what is measured, over those runs of a row that are compared."""

    train_seconds: float
    step_seconds: float
    peak_bytes: int
    training_bytes: int
    widths: Mapping[str, float] = field(default_factory=dict)
    """Half of the 95 % interval as a share, by the names above; none where there is one run."""


@dataclass(frozen=True)
class Costs:
    """What a row costs: counts, which are the same everywhere, and what was measured where it can be compared."""

    adapter: int
    head: int
    weight_bytes: int
    adapter_bytes: int
    measured: Measured | None
    """None where the row has no run there."""

    @property
    def trainable(self) -> int:
        """Adapter and head."""
        return self.adapter + self.head


MEBI = 2**20
Records = Sequence[Sequence[RunRecord]]
"""The final records of a row, of each column of the report."""
Noise = Mapping[str, MachineNoise]
"""Of the costs in `MEASURED` that are known for two equal runs."""


def machine_of(record: RunRecord) -> str:
    """The device that a run was trained on, and the threads, in words."""
    count = record.environment["threads"]
    return f"{record.environment.get('device', 'unknown')}, {count} thread{'' if count == 1 else 's'}"


def place_of(record: RunRecord) -> str | None:
    """Where a run was measured, in words: times and memory of two places cannot be compared.

    On a GPU the threads of its host do not matter. None: in one batch with others, whose time and memory they are.
    """
    device = str(record.environment.get("device", ""))
    return None if record.joint else device if device.startswith("cuda") else machine_of(record)


@dataclass(frozen=True)
class Block:
    """Rows and columns all of whose cells have runs in one place: what times and memory can be compared over."""

    place: str
    columns: frozenset[int]
    rows: frozenset[str]

    def of(self, row: str, by_column: Records) -> Records:
        """The runs of a row that are in it."""
        inside = self.columns if row in self.rows else ()
        return [
            [record for record in group if place_of(record) == self.place] if column in inside else []
            for column, group in enumerate(by_column)
        ]


def largest_block(rows: Mapping[str, Records]) -> Block | None:
    """The block with the most cells, then the most rows, then the first; None where no run was alone.

    Args:
        rows: The runs of each row.
    """
    places = dict.fromkeys(map(place_of, (record for row in rows.values() for group in row for record in group)))
    blocks = []
    for place in filter(None, places):
        there = {
            row: frozenset(column for column, group in enumerate(by_column) if place in map(place_of, group))
            for row, by_column in rows.items()
        }
        for columns in dict.fromkeys(filter(None, there.values())):
            blocks.append(Block(place, columns, frozenset(row for row, has in there.items() if columns <= has)))
    return max(blocks, key=lambda block: (len(block.columns) * len(block.rows), len(block.rows)), default=None)


def measured(by_column: Records, name: str) -> Groups:
    """One of the costs in `MEASURED` of each run."""
    return [[MEASURED[name](record) for record in group] for group in by_column]


def noise_of(rows: Sequence[Records]) -> Noise:
    """The noise of the machine in each measured cost, from the runs of all rows that are compared."""
    found = {name: MachineNoise.of([group for row in rows for group in measured(row, name)]) for name in MEASURED}
    return {name: noise for name, noise in found.items() if noise is not None}


def costs_of(by_column: Records, compared: Records, noise: Noise) -> Costs | None:
    """The costs of a row; None of no run.

    Args:
        by_column: Its runs.
        compared: Those of them whose times and memory are compared with those of other rows.
        noise: That of the grid.
    """
    records = [record for group in by_column for record in group]
    if not records:
        return None
    return Costs(
        int(_middle(records, lambda record: record.parameters["adapter"])),
        int(_middle(records, lambda record: record.parameters["head"])),
        int(_middle(records, lambda record: record.memory_bytes.get("weights", 0))),
        int(_middle(records, lambda record: record.adapter_bytes)),
        _measured_of(compared, noise),
    )


def _measured_of(by_column: Records, noise: Noise) -> Measured | None:
    records = [record for group in by_column for record in group]
    if not records:
        return None
    return Measured(
        _middle(records, MEASURED["train_seconds"]),
        _middle(records, MEASURED["step_seconds"]),
        int(_middle(records, MEASURED["peak_bytes"])),
        int(_middle(records, MEASURED["training_bytes"])),
        {name: of.width(measured(by_column, name)) for name, of in noise.items()},
    )


def _middle(records: Sequence[RunRecord], read: Callable[[RunRecord], float]) -> float:
    return statistics.median(read(record) for record in records)
