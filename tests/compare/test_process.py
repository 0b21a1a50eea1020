"""Laws of a run's process: a record or why there is none, as data, and what it printed in its log."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from propulsion_tools.compare import demo
from propulsion_tools.compare.process import train_in_process
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.run_folders import FAILURE_FILE, LOG_FILE, Failure, read_failure
from propulsion_tools.errors import RunsFailedError
from propulsion_tools.records import RECORD_FILE, RunRecord, RunSpec
from propulsion_tools.records.options import DemoOptions
from propulsion_tools.training.run import train
from tests.grids import MakeGrid
from tests.processes import forked


@pytest.fixture
def spec(make_grid: MakeGrid) -> RunSpec:
    return all_results(make_grid())[0].final[0][0].spec


def packages() -> set[str]:
    """What has been imported, beside the standard library."""
    return {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names


def note_imports(spec: RunSpec, file: Path) -> None:
    before = packages()
    train(spec)
    file.write_text(" ".join(sorted(packages() - before)))


@pytest.mark.slow
def test_a_run_imports_no_package_that_others_import_too(spec: RunSpec, tmp_path: Path) -> None:
    run = replace(spec, method="propulsion", output_dir=str(tmp_path / "run"))
    done = forked(note_imports, run, tmp_path / "imported")
    assert done.status == 0, done.errors
    assert (tmp_path / "imported").read_text() == ""


@pytest.mark.slow
def test_a_run_leaves_its_record_and_in_its_log_all_that_it_printed(
    spec: RunSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train_in_process(replace(spec, method="propulsion", output_dir=str(folder)), threads=1) is None
    record, log = RunRecord.read(folder), (folder / LOG_FILE).read_text()
    assert record.environment["threads"] == 1
    assert f"Written to {folder}" in log
    assert "adapter" in log
    assert "Warning" not in log
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_refusal_is_its_sentence_and_anything_else_is_in_the_log_with_its_traceback(
    spec: RunSpec, tmp_path: Path
) -> None:
    refused = replace(spec, method="propulsion", target_modules="quary", output_dir=str(tmp_path / "refused"))
    failure = train_in_process(refused, threads=1)
    assert failure is not None
    assert (failure.status, "'query'" in failure.error) == (2, True)
    assert failure == read_failure(tmp_path / "refused")
    assert "Traceback" not in (tmp_path / "refused" / LOG_FILE).read_text()
    broken = replace(spec, learning_rate=1e300, output_dir=str(tmp_path / "broken"))
    failure = train_in_process(broken, threads=1)
    assert failure is not None
    assert failure.status == 1
    assert failure.error.startswith("RuntimeError: ")
    assert "overflow" in failure.error
    assert failure == read_failure(tmp_path / "broken")
    assert "Traceback" in (tmp_path / "broken" / LOG_FILE).read_text()
    assert train_in_process(replace(broken, learning_rate=spec.learning_rate), threads=1) is None
    assert not (tmp_path / "broken" / FAILURE_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_run_that_was_interrupted_has_not_failed(
    sent: signal.Signals, status: int, spec: RunSpec, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def interrupt(process: BaseProcess) -> None:
        def send() -> None:
            while not list(folder.glob("checkpoint-*")):
                time.sleep(0.05)
            os.kill(process.pid or 0, sent)

        threading.Thread(target=send, daemon=True).start()

    long = replace(spec, max_steps=10**6, save_strategy="steps", save_steps=1, output_dir=str(folder))
    failure = train_in_process(long, threads=1, on_start=interrupt)
    assert failure is not None
    assert failure.status == status
    assert not (folder / FAILURE_FILE).exists()
    assert not (folder / RECORD_FILE).exists()


def test_a_demo_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "train_in_process", lambda spec, log: Failure("no memory left", 1, 1.0))
    with pytest.raises(RunsFailedError, match="--method head failed: no memory left"):
        demo.demo(DemoOptions(output_dir=str(tmp_path)))
