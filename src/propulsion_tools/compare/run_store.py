"""The results of a grid's runs, by the names of runs, wherever they are kept."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from propulsion_tools.compare.plan import Run
from propulsion_tools.compare.run_archive import ARCHIVE_FILE, Results, read_archive
from propulsion_tools.compare.run_folders import FAILURE_FILE, Outcome, failure_from
from propulsion_tools.errors import OptionError, SchemaVersionError, UnknownNameError
from propulsion_tools.records import RECORD_FILE, RunRecord


class RunStore:
    """Reads the results of runs: of each from its folder or, where it has none, from the archive of the grid.

    Args:
        folder: Of the grid.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def archived(self) -> Results:
        """What the grid's archive holds, also of runs that are no longer of the grid; nothing where there is none.

        Raises:
            OptionError: It is damaged, too large, or holds something else than results of runs.
        """
        file = self.folder / ARCHIVE_FILE
        return read_archive(file) if file.is_file() else {}

    def read(self, run: Run, name: str) -> bytes | None:
        """A file of a run; None where there is none.

        Raises:
            OptionError: The grid's archive is damaged, too large, or holds something else than results of runs.
        """
        if Path(run.folder).is_dir():
            file = Path(run.folder) / name
            return file.read_bytes() if file.is_file() else None
        return self.archived.get((run.name, name))

    def outcome(self, run: Run) -> Outcome | None:
        """How a run ended; None if it has not, or if what it left cannot be read.

        Raises:
            OptionError: The grid's archive is damaged, too large, or holds something else than results of runs.
            SchemaVersionError: Its record was written under another version of the schema; names the file.
            UnknownNameError: Its record has a key that is not known; names the file.
        """
        record, failure = self.read(run, RECORD_FILE), self.read(run, FAILURE_FILE)
        try:
            if record is not None:
                return RunRecord.from_json(record.decode("utf-8"))
        except (SchemaVersionError, UnknownNameError) as error:
            raise type(error)(f"{self._place(run)}: {error} To have it run again, remove it.") from error
        except (OptionError, TypeError, ValueError):
            pass
        return failure_from(failure) if failure is not None else None

    def _place(self, run: Run) -> str:
        if Path(run.folder).is_dir():
            return str(Path(run.folder) / RECORD_FILE)
        return f"{run.name}/{RECORD_FILE} in {self.folder / ARCHIVE_FILE}"
