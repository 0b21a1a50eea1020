"""Laws of the runner: each run once, whatever is killed, broken or failing in between."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from propulsion_tools.compare.command import require_a_finished_run
from propulsion_tools.compare.local_backend import LocalProcesses
from propulsion_tools.compare.plan import Run
from propulsion_tools.compare.progress import Estimate, GridProgress
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.run_folders import Failure, write_failure
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.errors import OptionError, RunsFailedError, SchemaVersionError
from propulsion_tools.records import RunRecord
from propulsion_tools.training.rate_plan import merit
from tests.grids import Here, MakeGrid, Notes
from tests.processes import environment


def test_each_run_once_and_the_chosen_rate_is_the_best(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(methods=["head", "propulsion"], learning_rates=[1e-4, 1e-3], seeds=[1, 2])
    notes = Notes()
    results = run_grid(grid, Here(), notes)
    assert len(notes.ran) == grid.runs == 8
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 8
    for result in results:
        merits = {run.spec.learning_rate: merit(record) for run, record in result.selection}  # type: ignore[arg-type]
        assert not any(other.beats(merits[result.rate]) for other in merits.values())
        assert [run.spec.seed for run, _ in result.records] == [1, 2]
        assert all("validation" in record.metrics for _, record in result.records)
    # the weights of the runs that only choose are not kept, those of the others are
    assert len(list(tmp_path.glob("runs/*/*.safetensors"))) == 4
    assert all_results(grid) == results


def test_a_search_goes_rung_by_rung_and_its_rates_are_those_of_the_final_runs(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid(
        methods=["propulsion"], learning_rates="auto", seeds=[1, 2], settings={"max_steps": 13, "num_train_epochs": 9}
    )
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, Here(dies_after=1), Notes())
    notes = Notes()
    (result,) = run_grid(grid, Here(), notes)
    assert len(notes.earlier) == 1
    assert len(result.selection) == 3
    assert len(notes.earlier) + len(notes.ran) == len(result.selection) + 2 == grid.runs
    for run, _ in result.selection:
        assert run.spec.max_steps == 4
        assert run.tried is not None
        assert run.spec.learning_rate == run.tried.trained_at > run.tried.learning_rate
        assert f"lr {run.tried.learning_rate:.3g} " in str(run)
    assert all("selection" in record.metrics for _, record in result.selection)  # type: ignore[union-attr]
    assert result.chosen is not None
    for run, record in result.records:
        rates = run.spec.learning_rate, run.spec.head_learning_rate
        assert rates == (result.chosen.learning_rate, result.chosen.head_learning_rate)
        assert set(record.metrics) == {"validation"}
    assert all_results(grid) == [result]


@pytest.mark.parametrize("rates", [{}, {"learning_rates": [2e-3, 5e-3]}, {"learning_rates": "auto"}])
def test_the_heads_rate_is_chosen_at_the_rate_that_was(rates: dict[str, Any], make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["propulsion", "head"],
        variants={"own": {"method": "propulsion", "head_learning_rate": 0.3}},
        head_learning_rates={"all": [5e-3, 0.3, 1.0]},
        settings={"max_steps": 6, "num_train_epochs": 9},
        **rates,
    )
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, Here(dies_after=2), Notes())
    notes = Notes()
    results = {result.cell.row: result for result in run_grid(grid, Here(), notes)}
    assert len(notes.earlier) + len(notes.ran) == grid.runs
    assert len(results["head"].selection) == grid.rate_count("head") - (grid.rate_count("head") == 1)
    for row, usual in (("propulsion", 5e-3), ("own", 0.3)):
        result = results[row]
        assert result.chosen is not None
        tried = [run.tried for run, _ in result.selection if run.tried]
        at_first, at_last = tried[: grid.rate_count(row)], tried[grid.rate_count(row) :]
        assert {item.head_learning_rate for item in at_first} == {usual}
        assert {item.head_learning_rate for item in at_last} == {5e-3, 0.3, 1.0} - {usual}
        assert {item.learning_rate for item in at_last} == {result.chosen.learning_rate}
        merits = {item: merit(record) for item, (_, record) in zip(tried, result.selection, strict=True)}  # type: ignore[arg-type]
        assert not any(merits[item].beats(merits[result.chosen]) for item in at_last)
        assert all(run.spec.head_learning_rate == result.chosen.head_learning_rate for run, _ in result.records)
    assert all_results(grid) == list(results.values())


@pytest.mark.parametrize("runs", range(4))
def test_killed_anywhere_and_started_again_runs_the_rest(runs: int, make_grid: MakeGrid) -> None:
    grid = make_grid(learning_rates=[2e-3, 5e-3], seeds=[1, 2], settings={"max_steps": 1})
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, Here(dies_after=runs), Notes())
    notes = Notes()
    run_grid(grid, Here(), notes)
    assert (len(notes.earlier), len(notes.ran)) == (runs, 4 - runs)


def test_a_broken_record_is_redone_and_one_of_another_schema_is_refused_by_name(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid(seeds=[1, 2], settings={"max_steps": 1})
    run_grid(grid, Here(), Notes())
    first = min(tmp_path.glob("runs/*/record.json"))
    whole = first.read_text()
    first.write_text(whole[: len(whole) // 2])
    notes = Notes()
    run_grid(grid, Here(), notes)
    assert len(notes.ran) == 1
    assert RunRecord.read(first).metrics == RunRecord.from_json(whole).metrics
    first.write_text(whole.replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(SchemaVersionError, match=f"{first}.*version 7"):
        run_grid(grid, Here(), Notes())


def test_failures_are_recorded_not_fatal_and_retried_when_asked(make_grid: MakeGrid, tmp_path: Path) -> None:
    wild = {"method": "propulsion", "degree": 55, "max_grad_norm": 0.0, "on_collapse": "ignore"}
    grid = make_grid(variants={"wild": wild}, learning_rates={"head": [1e-3], "wild": [300.0, 400.0]})
    notes = Notes()
    results = {result.cell.row: result for result in run_grid(grid, Here(), notes)}
    assert len(results["head"].records) == 1
    assert len(results["wild"].failures) == 2
    assert "left the finite range" in results["wild"].failures[0][1].error
    assert results["wild"].rate is None
    assert notes.hopeless == 1
    again = Notes()
    run_grid(grid, Here(), again)
    assert again.ran == []
    run_grid(grid, Here(), again, retry_failed=True)
    assert len(again.ran) == 2


def test_runs_that_never_will_be_are_left_out_once_however_many_fail_together(make_grid: MakeGrid) -> None:
    class Fails(Here):
        slots = 2

        def submit(self, run: Run) -> Future[Failure | None]:
            failure = Failure("no", 2, 0.0)
            write_failure(Path(run.folder), failure)  # as the process of a run does, before anyone looks
            done: Future[Failure | None] = Future()
            done.set_result(failure)
            return done

    notes = Notes()
    run_grid(make_grid(learning_rates=[1e-3, 2e-3], seeds=[1, 2, 3]), Fails(), notes)
    assert notes.hopeless == 3


def test_a_grid_of_which_nothing_finished_is_an_error(make_grid: MakeGrid, tmp_path: Path) -> None:
    wild = {"method": "propulsion", "degree": 55, "max_grad_norm": 0.0, "on_collapse": "ignore"}
    grid = make_grid(methods=[], variants={"wild": wild}, learning_rates={"wild": [300.0]})
    with pytest.raises(RunsFailedError, match=r"Every run failed, see report\.html; .*finite"):
        require_a_finished_run(run_grid(grid, Here(), Notes()), Path("report.html"))
    require_a_finished_run(run_grid(make_grid(output_dir=str(tmp_path / "good")), Here(), Notes()), Path("report.html"))


def test_the_estimate_is_of_the_row_that_is_left(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "full"], seeds=[1, 2])
    left = Estimate(grid, slots=2)
    assert left.seconds() is None
    (first, second) = (result.cell for result in all_results(grid))
    left.ended(first, 10.0)
    assert left.seconds() == 10.0 * 3 / 2
    left.skipped(second, 2)
    assert left.seconds() == 10.0 * 1 / 2
    assert left.total == 2


def test_progress_says_one_line_for_each_run(make_grid: MakeGrid, capsys: pytest.CaptureFixture[str]) -> None:
    grid = make_grid(seeds=[1, 2], settings={"max_steps": 1, "lr_scheduler_kwargs": {}})  # which has no hash
    with GridProgress(grid, 1) as progress:
        run_grid(grid, Here(), progress)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in lines] == ["[1/2]", "[2/2]"]
    assert all("accuracy" in line for line in lines)


def compared(file: Path) -> psutil.Popen:
    """The command, with a grid."""
    return psutil.Popen([sys.executable, "-m", "propulsion", "compare", str(file), "--jobs", "1"], env=environment())


@pytest.mark.slow
def test_local_processes_are_killed_with_the_grid_and_lose_only_what_was_running(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    # Long enough to be under way when the grid's death reaches them.
    grid = make_grid(seeds=[1, 2, 3], settings={"max_steps": 200})
    words = {"methods": ["head"], "tasks": ["text-classification"], "seeds": [1, 2, 3], "settings": dict(grid.settings)}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**words, "output_dir": grid.output_dir}))
    process = compared(file)
    while not (records := list(tmp_path.glob("runs/*/record.json"))):
        assert process.poll() is None
        time.sleep(0.05)
    started = process.children(recursive=True)
    process.kill()
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in records}
    assert psutil.wait_procs(started, timeout=60)[1] == []  # nothing goes on in the dark
    assert set(tmp_path.glob("runs/*/record.json")) == written.keys()
    with GridProgress(grid, 1) as progress:
        results = run_grid(grid, LocalProcesses(2), progress)
    assert len(results[0].records) == 3
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="runs are forked by a server, which is found by its children")
def test_a_run_ends_with_its_grid_also_while_the_server_that_forked_it_lives(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid(settings={"max_steps": 10**6})
    words = {"methods": ["head"], "tasks": ["text-classification"], "settings": dict(grid.settings)}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**words, "output_dir": grid.output_dir}))
    process = compared(file)
    while not (runs := [child for child in process.children(recursive=True) if child.ppid() != process.pid]):
        assert process.poll() is None
        time.sleep(0.05)
    server = runs[0].parent()
    server.suspend()
    try:
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while alive(runs[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(runs[0])
    finally:
        server.kill()


def alive(process: psutil.Process) -> bool:
    """Whether it still does something; one that has ended waits for its parent as a zombie."""
    return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_failure_with_its_signal(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(settings={"max_steps": 10**6})
    backend = LocalProcesses(1)
    started = backend._started

    def kill(folder: str, process: Any) -> None:
        started(folder, process)
        os.kill(process.pid, signal.SIGKILL)

    backend._started = kill  # type: ignore[method-assign]
    result = run_grid(grid, backend, Notes())[0]
    assert "SIGKILL" in result.failures[0][1].error
    assert isinstance(RunStore(grid.folder).outcome(result.failures[0][0]), Failure)


def test_two_processes_never_run_the_same_grid(make_grid: MakeGrid) -> None:
    grid = make_grid()

    class Nosy(Here):
        def submit(self, run: object) -> object:  # type: ignore[override]
            with pytest.raises(OptionError, match="Another process"):
                run_grid(grid, Here(), Notes())
            return super().submit(run)  # type: ignore[arg-type]

    run_grid(grid, Nosy(), Notes())


def test_failure_files_are_json(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(settings={"target_modules": "quary"}, methods=["propulsion"])
    run_grid(grid, Here(), Notes())
    values = json.loads(next(tmp_path.glob("runs/*/failure.json")).read_text())
    assert values["status"] == 2
    assert "quary" in values["error"]
