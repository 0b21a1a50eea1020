"""Write a grid's report: report.html, report.md and report.csv, the same numbers in each."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.results import CellResult
from propulsion_tools.records import write_atomically
from propulsion_tools.report.costs import MEASURED
from propulsion_tools.report.drawing import Figure
from propulsion_tools.report.page import page
from propulsion_tools.report.rerun_commands import commands
from propulsion_tools.report.summary import Summary
from propulsion_tools.report.tables import Table, TableCell, doubts, facts, tables, title

Extra = Callable[[Summary], list[Figure]]


def write_report(grid: Grid, results: Sequence[CellResult], first: Extra = lambda summary: []) -> Path:
    """Write all three into the grid's folder.

    Args:
        grid: The grid.
        results: How far each of its cells has come.
        first: Makes figures that stand before the tables.

    Returns:
        The HTML file.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    summary = Summary(grid, results)
    for name, text in (("report.md", markdown(summary)), ("report.csv", rows_as_csv(summary))):
        write_atomically(grid.folder / name, text)
    write_atomically(grid.folder / "report.html", page(summary, first(summary)))
    return grid.folder / "report.html"


def markdown(summary: Summary) -> str:
    """The tables, and the command of every final run."""
    parts = [f"# {_escaped(title(summary))}", *map(_escaped, facts(summary))]
    for table in tables(summary):
        parts += [f"## {table.title}", table.caption, as_markdown(table)]
    parts += ["## Commands"]
    for _, heading, runs in commands(summary):
        parts += [f"**{_escaped(heading)}**", "```bash\n" + "\n".join(command for _, command in runs) + "\n```"]
    return "\n\n".join(parts) + "\n"


def as_markdown(table: Table) -> str:
    """One table."""
    lines = [[table.first, *map(_escaped, table.headings)], ["---", *("---:" for _ in table.headings)]]
    lines += [[_escaped(label), *map(_marked, cells)] for label, cells in (*table.rows, *table.foot)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _marked(cell: TableCell) -> str:
    text = _escaped(cell.text)
    if cell.mark:
        text = f"**{text}**" if cell.mark == 1 else f"<u>{text}</u>"
    return f"{text} ({_escaped(cell.below)})" if cell.below else text


def _escaped(text: str) -> str:
    """Text that a reader of Markdown shows as it is: "<mask>" would be an element, and a bar a cell."""
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").splitlines())


COSTS = ("train_seconds", "step_seconds", "peak_bytes", "weight_bytes", "training_bytes", "adapter_bytes")
CSV_FIELDS = (
    *("method", "task", "size", "metric", "mean", "std", "seeds", "rank"),
    *("learning_rate", "head_learning_rate", "failures"),
    *("difference", "low", "high", "p", "peer", "doubts", "majority", "paper"),
    *("adapter_parameters", "head_parameters", *COSTS),
)


def rows_as_csv(summary: Summary) -> str:
    """One line for each row, column and metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in summary.rows:
        for column in summary.columns:
            writer.writerows(_csv_rows(summary, row, column))
    return text.getvalue()


def _csv_rows(summary: Summary, row: str, column: Any) -> list[dict[str, Any]]:
    score = summary.scores[row, column]
    cost = summary.costs(row)
    common = {"method": row, "task": column.task, "size": column.size, "failures": len(score.result.failures)}
    if chosen := score.result.chosen:
        common |= {"learning_rate": chosen.learning_rate, "head_learning_rate": chosen.head_learning_rate}
    if cost:
        common |= {"adapter_parameters": cost.adapter, "head_parameters": cost.head}
        sources = {name: cost.measured if name in MEASURED else cost for name in COSTS}
        common |= {name: getattr(source, name) for name, source in sources.items() if source}
    means = {column.metric: score.main, **score.others}
    rows = [
        {**common, "metric": name, "mean": mean.mean, "std": mean.std, "seeds": mean.count}
        for name, mean in means.items()
        if mean
    ] or [{**common, "metric": column.metric}]
    rows[0] |= {"rank": score.rank, "paper": summary.paper(row, column), "majority": summary.majority(column)}
    if gap := score.difference:
        rows[0] |= {"difference": gap.mean, "low": gap.low, "high": gap.high, "p": gap.p, "peer": gap.peer}
        rows[0]["doubts"] = "; ".join(doubts(summary, row, gap.peer, column))
    return rows
