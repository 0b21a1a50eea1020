"""`propulsion compare`: from a grid to its report."""

from __future__ import annotations

import itertools
import shutil
from functools import cache
from pathlib import Path

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.groups import Grouping
from propulsion_tools.compare.local_backend import Backend, LocalProcesses
from propulsion_tools.compare.plan import Cell, cells, final_runs, usual_rates
from propulsion_tools.compare.process import cores
from propulsion_tools.compare.progress import GridProgress
from propulsion_tools.compare.ray_backend import RayTasks
from propulsion_tools.compare.results import CellResult, all_results
from propulsion_tools.compare.run_archive import ARCHIVE_FILE, write_archive
from propulsion_tools.compare.run_folders import RESULT_FILES
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.errors import DataError, OptionError, RunsFailedError, require
from propulsion_tools.records import RunRecord
from propulsion_tools.records.fields import AUTO
from propulsion_tools.records.options import CompareOptions
from propulsion_tools.training.base_models import model_path
from propulsion_tools.training.console import size
from propulsion_tools.training.together import why_alone
from propulsion_tools.training.trained_files import weight_bytes

OTHER_METHODS_SHARE, FILES_BESIDE = 0.05, 2 * 2**20  # of the base model's weights; tokenizer, answers, curves


def compare(grid: Grid, options: CompareOptions, costs_matter: bool = True) -> list[CellResult]:
    """Run what is missing.

    Args:
        grid: The grid.
        options: How to run it.
        costs_matter: Whether a reader asks what a run takes, so that those that count are trained alone unless it is
            said that they are not.

    Raises:
        OptionError: The disk is too small for it, another process runs it, or its archive cannot be read.
        DataError: There is no folder of data where one is named.
        SchemaVersionError: A record was written under another version of the schema.
    """
    require("plotly", "report")  # not only after all that was run
    results = all_results(grid) if options.report_only else _run_missing(grid, options, costs_matter)
    if options.archive:
        archive_runs(grid, results)
    return results


def _run_missing(grid: Grid, options: CompareOptions, costs_matter: bool) -> list[CellResult]:
    check_data(grid)
    check_folders(grid)
    check_disk(grid)
    backend = make_backend(options)
    with GridProgress(grid, backend.slots) as progress:
        for sentence in reasons_alone(grid) if options.joint is True else ():
            progress.say(sentence)
        return run_grid(grid, backend, progress, options.retry_failed, grouping(options, costs_matter))


def grouping(options: CompareOptions, costs_matter: bool = True) -> Grouping | None:
    """Which runs are trained together; None: none are."""
    if options.joint is False:
        return None
    return Grouping(finals=options.joint is True or not costs_matter, measure=options.joint == AUTO)


def reasons_alone(grid: Grid) -> list[str]:
    """Which rows cannot be trained together, and why, as far as their settings tell."""
    rows: dict[str, dict[str, None]] = {}
    for cell in cells(grid):
        if reason := why_alone(final_runs(grid, cell, usual_rates(grid, cell))[0].spec):
            rows.setdefault(reason, {})[cell.row] = None
    return [f"{_listed(list(names))} trained one run after the other: {reason}." for reason, names in rows.items()]


def _listed(names: list[str]) -> str:
    return f"{' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} {'is' if len(names) == 1 else 'are'}"


def archive_runs(grid: Grid, results: list[CellResult]) -> Path:
    """Write the results of every run that has ended into one file, which stands for the folders of the runs.

    Args:
        grid: The grid.
        results: What came of its runs.

    Returns:
        The archive: records, answers and failures. What it held of other runs before is still there.
    """
    store = RunStore(grid.folder)
    runs = [run for result in results for run, outcome in result.runs if outcome is not None]
    names = {run.name for run in runs}
    contents = {key: content for key, content in store.archived.items() if key[0] not in names}
    for run, name in itertools.product(runs, RESULT_FILES):
        if (content := store.read(run, name)) is not None:
            contents[run.name, name] = content
    write_archive(grid.folder / ARCHIVE_FILE, contents)
    return grid.folder / ARCHIVE_FILE


def require_a_finished_run(results: list[CellResult], report: Path) -> None:
    """Tell scripts, by an error after the report, that nothing worked.

    Raises:
        RunsFailedError: Runs failed, and none has finished.
    """
    failures = [failed for result in results for _, failed in result.failures]
    finished = any(isinstance(outcome, RunRecord) for result in results for _, outcome in result.runs)
    if failures and not finished:
        raise RunsFailedError(f"Every run failed, see {report}; the first said: {failures[0].error}")


def make_backend(options: CompareOptions) -> Backend:
    """Where runs run."""
    if options.backend == "ray":
        return RayTasks(options.ray_address, options.jobs)
    return LocalProcesses(options.jobs or max(1, cores() // 2))


def check_data(grid: Grid) -> None:
    """Refuse a grid whose data is not there, before anything runs."""
    for cell in cells(grid):
        folder = final_runs(grid, cell, usual_rates(grid, cell))[0].spec.data_dir
        if folder is not None and not Path(folder).is_dir():
            raise DataError(f"data_dir {folder} of the task {cell.task} does not exist: mend it, or pass --data_root.")


def check_folders(grid: Grid) -> None:
    """Refuse runs that would write into one folder, each over the other: equal settings under names that look alike."""
    seen: dict[str, Cell] = {}
    for cell in cells(grid):
        other = seen.setdefault(final_runs(grid, cell, usual_rates(grid, cell))[0].folder, cell)
        if other is not cell:
            names = (other.row, cell.row) if other.row != cell.row else (other.task, cell.task)
            raise OptionError(f"{names[0]!r} and {names[1]!r} are the same with folders of the same name: rename one.")


def check_disk(grid: Grid) -> None:
    """Refuse a grid whose runs do not fit on the disk; an upper bound, where the base models are folders here."""
    needed = missing = 0
    for result in all_results(grid):
        spec = final_runs(grid, result.cell, usual_rates(grid, result.cell))[0].spec
        share = 1.0 if spec.method == "full" else OTHER_METHODS_SHARE
        weights = int(_bytes_of_weights(spec.model_name_or_path) * share) if grid.keep_weights else 0
        count = len(grid.seeds) - len(result.records)
        missing, needed = missing + count, needed + count * (FILES_BESIDE + weights)
    existing = next(path for path in (grid.folder.absolute(), *grid.folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OptionError(
            f"The {missing:,} final runs of {grid.name} may take {size(needed)}, and {existing} has {size(free)} free: "
            "set keep_weights: false, or another output_dir."
        )


@cache
def _bytes_of_weights(model: str) -> int:
    """Bytes of the base model's weights; 0 where they are not in a folder here."""
    folder = Path(model_path(model))
    return weight_bytes(folder) if folder.is_dir() else 0
