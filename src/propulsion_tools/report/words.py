"""What the report says about the grid before its tables."""

from __future__ import annotations

from propulsion_tools.records import RunRecord
from propulsion_tools.report.summary import Summary


def title(summary: Summary) -> str:
    """The grid's title, or its name."""
    return summary.grid.title or f"Comparison {summary.grid.name}"


def facts(summary: Summary) -> list[str]:
    """What was compared, how far it has come, where it ran, and what the grid's author says about it."""
    grid = summary.grid
    records = [record for row in summary.rows for record in summary.records(row)]
    said = [f"{_models(records)}{grid.shape[0].upper()}{grid.shape[1:]}."]
    left = [f"{summary.missing} final runs are still missing"] if summary.missing else []
    left += [f"{len(summary.failures)} runs failed, see below"] if summary.failures else []
    if left:
        said.append(f"{' and '.join(left)}.")
    return [*said, *grid.notes, *_where(records)]


def _models(records: list[RunRecord]) -> str:
    models = dict.fromkeys(record.spec.model_name_or_path for record in records)
    return f"Base model {', '.join(models)}. " if models else ""


def _threads(record: RunRecord) -> str:
    count = record.environment["threads"]
    return "1 thread" if count == 1 else f"{count} threads"


def _where(records: list[RunRecord]) -> list[str]:
    places = dict.fromkeys(f"{record.environment.get('device', 'unknown')}, {_threads(record)}" for record in records)
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record.environment["versions"].items()) for record in records
    )
    return [f"Ran on {'; '.join(places)}; {'; '.join(versions)}."] if records else []
