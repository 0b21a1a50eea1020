"""What a run leaves in its folder for the grid: a record, its answers, a log, or why it failed."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, check_types, write_atomically

FAILURE_FILE, LOG_FILE = "failure.json", "log.txt"
RESULT_FILES = (RECORD_FILE, PREDICTIONS_FILE, FAILURE_FILE)


@dataclass(frozen=True)
class Failure:
    """A run that ended without a record.

    Attributes:
        error: Why, in a sentence.
        status: Its exit status; minus the number of the signal that ended it.
        seconds: How long it took.
    """

    error: str
    status: int
    seconds: float


Outcome = RunRecord | Failure


def failure_from(content: str | bytes) -> Failure | None:
    """The failure that a failure.json describes; None if it describes none."""
    try:
        values = json.loads(content)
        check_types(Failure, values)
        return Failure(**values)
    except (ValueError, TypeError, RecursionError):
        return None


def read_failure(folder: Path) -> Failure | None:
    """The failure that is recorded in `folder`, if one is."""
    file = folder / FAILURE_FILE
    return failure_from(file.read_bytes()) if file.is_file() else None


def write_failure(folder: Path, failure: Failure) -> None:
    """Record a failure."""
    write_atomically(folder / FAILURE_FILE, json.dumps(asdict(failure), indent=2) + "\n")


def forget_failure(folder: Path) -> None:
    """Make a failed run one that is to be run; an empty folder says so of a run in the grid's archive."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)


def keep_results_only(folder: Path) -> None:
    """Remove all that a run left but its record, its answers and its log."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (*RESULT_FILES, LOG_FILE):
            path.unlink()
