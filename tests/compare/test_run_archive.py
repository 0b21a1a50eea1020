"""Laws of archives: they stand for the folders of runs, equal results are equal bytes, hostile ones are refused."""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from propulsion_tools.compare import run_archive
from propulsion_tools.compare.command import archive_runs, compare
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.run_archive import ARCHIVE_FILE, read_archive, write_archive
from propulsion_tools.compare.run_folders import Failure, forget_failure, write_failure
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.errors import OptionError, SchemaVersionError
from propulsion_tools.records.options import CompareOptions
from propulsion_tools.report.write import write_report
from tests.grids import Here, MakeGrid, Notes

RESULTS = {("b", "record.json"): b"{}", ("a", "eval_predictions.npz"): b"PK", ("a", "record.json"): b"{}\n"}


def remove_folders(grid_folder: Path) -> None:
    for folder in grid_folder.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


def test_a_report_of_the_archive_is_that_of_the_folders(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], learning_rates=[2e-3, 5e-3], seeds=[1, 2], settings={"max_steps": 2})
    results = run_grid(grid, Here(), Notes())
    doomed = results[0].final[0][0]
    (Path(doomed.folder) / "record.json").unlink()
    write_failure(Path(doomed.folder), Failure("the loss became nan", 2, 1.0))
    reports = []
    for remove in (False, True):
        if remove:
            compare(grid, CompareOptions(report_only=True, archive=True))
            remove_folders(grid.folder)
        write_report(grid, all_results(grid))
        reports.append({file.name: file.read_bytes() for file in grid.folder.glob("report.*")})
    assert len(reports[0]) == 3
    assert reports[0] == reports[1]
    assert b"the loss became nan" in reports[1]["report.md"]


def test_a_grid_goes_on_from_its_archive(make_grid: MakeGrid) -> None:
    grid = make_grid(seeds=[1, 2], settings={"max_steps": 1})
    archive_runs(grid, run_grid(grid, Here(), Notes()))
    remove_folders(grid.folder)
    notes, more = Notes(), make_grid(seeds=[1, 2, 3], settings={"max_steps": 1})
    results = run_grid(more, Here(), notes)
    assert [run.spec.seed for run in notes.ran] == [3]
    archive_runs(more, results)  # of a folder and of what was archived before
    remove_folders(grid.folder)
    assert all_results(more) == results
    archive_runs(grid, all_results(grid))
    assert all_results(more) == results  # what another form of the grid has run is not lost


def test_an_archived_failure_can_be_retried(make_grid: MakeGrid) -> None:
    grid = make_grid(settings={"max_steps": 1})
    run = all_results(grid)[0].final[0][0]
    forget_failure(Path(run.folder))
    write_failure(Path(run.folder), Failure("no memory", -9, 1.0))
    archive_runs(grid, all_results(grid))
    remove_folders(grid.folder)
    assert all_results(grid)[0].failures == [(run, Failure("no memory", -9, 1.0))]
    assert len(run_grid(grid, Here(), Notes(), retry_failed=True)[0].records) == 1


def test_an_archived_record_of_another_schema_is_refused_by_name(make_grid: MakeGrid) -> None:
    grid = make_grid()
    grid.folder.mkdir()
    name = all_results(grid)[0].final[0][0].name
    write_archive(grid.folder / ARCHIVE_FILE, {(name, "record.json"): b'{"schema_version": 7}'})
    with pytest.raises(SchemaVersionError, match=rf"{name}/record.json in .*{ARCHIVE_FILE}.*version 7"):
        all_results(grid)


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_archive(first, RESULTS)
    write_archive(second, dict(reversed(RESULTS.items())))
    assert first.read_bytes() == second.read_bytes()
    assert read_archive(first) == RESULTS


def member(name: str, content: bytes = b"{}", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info, io.BytesIO(content))

    return add


def packed(*members: Callable[[tarfile.TarFile], None]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for add in members:
            add(archive)
    return content.getvalue()


GOOD, TWICE = packed(member("a/record.json")), member("a/record.json")
SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**50)}
HOSTILE = {
    "leaves the folder": packed(member("../record.json")),
    "absolute": packed(member("/record.json")),
    "leaves the run": packed(member("a/../../record.json")),
    "a backslash": packed(member("..\\a/record.json")),
    "something else": packed(member("a/adapter_model.safetensors")),
    "no run": packed(member("record.json")),
    "a symbolic link": packed(member("a/record.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": packed(member("a/record.json", b"", type=tarfile.LNKTYPE, linkname="b/record.json")),
    "a device": packed(member("a/record.json", b"", type=tarfile.CHRTYPE)),
    "a petabyte of holes": packed(member("a/record.json", b"x", pax_headers=SPARSE)),
    "a size beyond the end": packed(member("a/record.json", b"x", pax_headers={"size": str(2**60)})),
    "a size that leads back": packed(TWICE, member("b/record.json", b"", pax_headers={"size": "-1536"})),
    "a size that leads out": packed(TWICE, member("b/record.json", b"", pax_headers={"size": "-4096"})),
    "twice the same": packed(TWICE, TWICE),
    "half": GOOD[:700],
    "no tar": b"{}" * 1000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_by_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / ARCHIVE_FILE
    file.write_bytes(lzma.compress(GOOD))
    assert read_archive(file) == {("a", "record.json"): b"{}"}
    file.write_bytes(lzma.compress(HOSTILE[name]))
    with pytest.raises(OptionError, match=ARCHIVE_FILE):
        read_archive(file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", lzma.compress(GOOD)[:-20], lzma.compress(GOOD).replace(b"YZ", b"YY"), b"\xfd7zXZ" * 9],
)
def test_damaged_archives_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE_FILE).write_bytes(content)
    with pytest.raises(OptionError, match=ARCHIVE_FILE):
        read_archive(tmp_path / ARCHIVE_FILE)


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ARCHIVE_FILE
    monkeypatch.setattr(run_archive, "MOST_BYTES", 2**20)
    file.write_bytes(lzma.compress(packed(member("a/record.json", bytes(2**20)))))
    assert file.stat().st_size < 2000
    with pytest.raises(OptionError, match="more than 1 MiB"):
        read_archive(file)
    file.write_bytes(lzma.compress(GOOD, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]))
    with pytest.raises(OptionError, match="cannot be read"):
        read_archive(file)
