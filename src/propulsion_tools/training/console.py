"""Tables for people."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from propulsion_tools.records import RunRecord
from propulsion_tools.tasks import get_task

if TYPE_CHECKING:  # counting needs torch, a table does not
    from propulsion_tools.methods.counts import Count

WIDTH_OF_A_FILE = 400
MOST_LINES = 12
MAJORITY = "most frequent answer"


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Table:
    """A plain table.

    Args:
        title: Stands above it.
        headings: One for each column.
        rows: Cells, as text.
        right: Columns that are aligned to the right, such as numbers.
    """
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        is_number = number in right
        made.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number or number == 0)
    for row in rows:
        made.add_row(*row)
    return made


def show(*parts: object) -> None:
    """Print tables and lines to standard output, without reading markup into data.

    A file or a pipe has no width: there tables are as wide as what is in them, where a terminal would cut it.
    """
    console = Console(markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_A_FILE
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def metrics_table(metrics: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """One row for each split, one column for each metric."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[split, *(number(values.get(name)) for name in names)] for split, values in metrics.items()]
    return table(title, ["split", *names], rows, right=range(1, len(names) + 1))


def run_table(records: Mapping[str, RunRecord], main_metric: str, split: str = "validation") -> Table:
    """Runs side by side: what each reached, and what it cost, below what the most frequent answer reaches."""
    costs = ["adapter\nparams", "head\nparams", "adapter\nfile", "train", "one\nstep", "peak\nmemory"]
    headings = [main_metric, *costs]
    forgetting = any(record.forgotten is not None for record in records.values())
    headings += ["forgetting"] if forgetting else []
    rows = [
        [
            name,
            number(record.metrics.get(split, {}).get(main_metric)),
            f"{record.parameters['adapter']:,}",
            f"{record.parameters['head']:,}",
            size(record.adapter_bytes),
            f"{record.seconds['train']:.0f} s",
            f"{record.seconds['per_step_median'] * 1000:.0f} ms",
            size(record.peak_memory_bytes),
            *([number(record.forgotten)] if forgetting else []),
        ]
        for name, record in records.items()
    ]
    common = {record.majority.get(split, {}).get(main_metric) for record in records.values()}
    if len(common) == 1 and (most := common.pop()) is not None:
        rows.insert(0, ["majority", number(most), *("" for _ in headings[1:])])
    return table("", ["method", *headings], rows, right=range(1, len(headings) + 1))


def course_table(record: RunRecord, main_metric: str, most: int = MOST_LINES) -> Table | None:
    """The scores that were reached while training, with the loss as last logged; None where nothing was scored then.

    Args:
        record: A finished run.
        main_metric: What was scored.
        most: Lines at most, evenly spaced, the last among them.
    """
    points = record.history.get(main_metric, [])
    if not points:
        return None
    every = -(-len(points) // most)
    chosen = points[(len(points) - 1) % every :: every]
    epochs = {point[0]: point[1] for point in record.history.get("epoch", [])}
    rows = [
        [_epoch(epochs.get(step)), f"{step:g}", number(_last_loss(record, step)), number(value)]
        for step, value in chosen
    ]
    shown = f"Scores by epoch ({len(chosen)} of {len(points)})" if every > 1 else "Scores by epoch"
    return table(shown, ["epoch", "step", "training loss", main_metric], rows, right=range(4))


def _epoch(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _last_loss(record: RunRecord, step: float) -> float | None:
    return next((value for at, value in reversed(record.history.get("loss", [])) if at <= step), None)


def show_run(record: RunRecord) -> None:
    """What a run reached, how it came there and what it cost, and where it is."""
    metric, split = get_task(str(record.spec.task)).main_metric, next(iter(record.metrics), "validation")
    course = course_table(record, metric)
    show(*(["", course] if course else []), run_table({record.spec.method: record}, metric, split))
    show(f"Written to {record.spec.output_dir}")


def counts_table(rows: Sequence[Count], model: str) -> Table:
    """What each method trains, beside what the paper prints; the sign says whether the two agree."""
    signs = {True: "=", False: "≠", None: ""}
    cells = [
        [
            row.method,
            f"{row.adapter:,}" if row.as_counted is not None else "–",
            f"{row.head:,}" if row.as_counted is not None else "–",
            f"{row.as_counted:,}" if row.paper and row.as_counted is not None else "",
            signs[row.agrees],
            row.paper,
            row.table,
            row.note,
        ]
        for row in rows
    ]
    headings = ["method", "adapter", "head", "as the paper\ncounts", "", "the paper", "table", "remark"]
    return table(f"Trained parameters in {model} with two labels", headings, cells, right=(1, 2, 3, 5))


def number(value: float | None) -> str:
    """Four significant places, or a dash."""
    return "–" if value is None else f"{value:.4f}"


def size(count: int) -> str:
    """Bytes with a unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
