"""What the folder of a run says: finished, failed, or to be run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from propulsion_tools.errors import OptionError, SchemaVersionError, UnknownNameError
from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, check_types, write_atomically

FAILURE_FILE, LOG_FILE = "failure.json", "log.txt"
_PROOF = {RECORD_FILE, PREDICTIONS_FILE, FAILURE_FILE, LOG_FILE}


@dataclass(frozen=True)
class Failure:
    """A run that ended without a record.

    Attributes:
        error: The last sentence that it said.
        status: Its exit status; minus the number of the signal that ended it.
        seconds: How long it took.
    """

    error: str
    status: int
    seconds: float


Outcome = RunRecord | Failure


def outcome(folder: str | Path) -> Outcome | None:
    """How the run in `folder` ended; None if it has not, or if what it left cannot be read.

    Raises:
        SchemaVersionError: Its record was written under another version of the schema; names the file.
        UnknownNameError: Its record has a key that is not known; names the file.
    """
    file = Path(folder) / RECORD_FILE
    try:
        return RunRecord.read(file)
    except (SchemaVersionError, UnknownNameError) as error:
        raise type(error)(f"{error} To have it run again, remove its folder.") from error
    except (OptionError, TypeError, ValueError):
        return failure(Path(folder))


def failure(folder: Path) -> Failure | None:
    """The failure that is recorded in `folder`, if one is."""
    try:
        values = json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))
        check_types(Failure, values)
        return Failure(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_failure(folder: Path, failed: Failure) -> None:
    """Record a failure."""
    write_atomically(folder / FAILURE_FILE, json.dumps(asdict(failed), indent=2) + "\n")


def forget_failure(folder: Path) -> None:
    """Make a failed run one that is to be run."""
    (folder / FAILURE_FILE).unlink(missing_ok=True)


def keep_proof_alone(folder: Path) -> None:
    """Remove all that a run left but its record, its answers and its log."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in _PROOF:
            path.unlink()
