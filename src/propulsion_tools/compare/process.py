"""One run in a process of its own, so that its peak memory is its own and its death takes nothing with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from propulsion_tools.compare.run_folders import LOG_FILE, Failure, forget_failure, read_failure, write_failure
from propulsion_tools.errors import is_one_sentence
from propulsion_tools.records import RECORD_FILE, RunSpec
from propulsion_tools.training.bars import clear_bars

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_REFUSED, _BROKEN, _INTERRUPTED = 2, 1, 130  # exit statuses, those of the command line
_START = threading.Lock()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_in_process(
    spec: RunSpec,
    threads: int | None = None,
    log: bool = True,
    on_start: Callable[[BaseProcess], None] | None = None,
) -> Failure | None:
    """Train, and leave a record or, if the run itself can tell why there is none, failure.json.

    Args:
        spec: What to run; it names its output_dir.
        threads: How many it may use; None: as many as there are cores.
        log: Whether what it prints goes to log.txt in its output_dir; else it shows its progress on standard error.
        on_start: Is given the process, so that it can be ended.

    Returns:
        None, or why there is no record.
    """
    folder = Path(str(spec.output_dir))
    forget_failure(folder)
    begun = time.monotonic()
    with _START:
        process = _context().Process(target=_train, args=(spec, threads, log))  # type: ignore[attr-defined]
        process.start()
    if on_start is not None:
        on_start(process)
    process.join()
    status = process.exitcode or 0
    return read_failure(folder) or Failure(_death(status), status, time.monotonic() - begun) if status else None


def train_together_in_process(
    specs: Sequence[RunSpec], measure: bool, threads: int | None, on_start: Callable[[BaseProcess], None]
) -> list[Failure | None]:
    """As `train_in_process`, for several runs in one process; each has a log and, if it fails, a failure of its own.

    Args:
        specs: What to run; each names its output_dir.
        measure: Whether they go on one after the other where that is as fast.
        threads: How many the process may use; None: as many as there are cores.
        on_start: Is given the process, so that it can be ended.

    Returns:
        For each None, or why there is no record.
    """
    folders, begun = [Path(str(spec.output_dir)) for spec in specs], time.monotonic()
    for folder in folders:
        forget_failure(folder)
    with _START:
        process = _context().Process(target=_train_together, args=(specs, measure, threads))  # type: ignore[attr-defined]
        process.start()
    on_start(process)
    process.join()
    status = process.exitcode or 0
    died = Failure(_death(status), status, time.monotonic() - begun) if status else None
    return [read_failure(f) or (None if (f / RECORD_FILE).is_file() else died) for f in folders]


def _context() -> BaseContext:
    """Processes that are forked from one that has imported everything, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["propulsion_tools.compare.preload"])
    before = os.environ.get("OMP_WAIT_POLICY")
    # Threads that spin while they wait triple the time on a machine that has something else to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]
    return context


def _train(spec: RunSpec, threads: int | None, log: bool) -> None:
    """What the process does."""
    _die_with_grid()
    folder, begun = Path(str(spec.output_dir)), time.monotonic()
    _redirect(folder / LOG_FILE if log else None)
    try:
        _train_and_show(spec, threads)
    except KeyboardInterrupt:  # of the grid: the run is no failure, and will go on with it
        clear_bars()
        sys.exit(_INTERRUPTED)
    except Exception as error:
        clear_bars()
        failure = _failure_of(error, begun, partial(print, file=sys.stderr))
        _write_failure(folder, failure)
        sys.exit(failure.status)


def _failure_of(error: Exception, begun: float, tell: Callable[[str], None]) -> Failure:
    """What is written of an error; where its message alone does not help, its traceback is told."""
    refused = is_one_sentence(error)
    if not refused:
        tell("".join(traceback.format_exception(error)))
    reason = str(error) if refused else textwrap.shorten(f"{type(error).__name__}: {error}", 500)
    return Failure(reason, _REFUSED if refused else _BROKEN, time.monotonic() - begun)


def _write_failure(folder: Path, failure: Failure) -> None:
    try:
        write_failure(folder, failure)
    except OSError:  # the disk may be what failed
        print(failure.error, file=sys.stderr)


def _train_together(specs: Sequence[RunSpec], measure: bool, threads: int | None) -> None:
    """What the process of several runs does."""
    _die_with_grid()
    logs, begun = [Path(str(spec.output_dir)) / LOG_FILE for spec in specs], time.monotonic()
    for log in logs:
        log.write_text("", encoding="utf-8")
    _redirect(logs[0])
    _prepare(threads)
    from propulsion_tools.training.joint_runs import train_together

    def ended(number: int, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            failure = _failure_of(error, begun, partial(_append, logs[number]))
            _write_failure(logs[number].parent, failure)

    try:
        done = train_together(specs, [partial(_append, log) for log in logs], measure=measure, on_end=ended)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    for log, one in zip(logs, done, strict=True):
        way = f"one after the other: {one.apart}" if one.apart else "in one batch"
        _append(log, f"{len(specs)} runs were trained in one process, {way}.")


def _append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _redirect(log: Path | None) -> None:
    """Both streams into a file, or nothing on standard output."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if log else os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2) if log else (1,):
        os.dup2(output, stream)


def _train_and_show(spec: RunSpec, threads: int | None) -> None:
    from propulsion_tools.training.console import show, show_run
    from propulsion_tools.training.run import train

    _prepare(threads)
    show_run(train(spec, show))


def _prepare(threads: int | None) -> None:
    import torch

    from propulsion_tools.upstream.peft_private import hide_harmless_warnings

    hide_harmless_warnings()
    if threads is not None:
        torch.set_num_threads(threads)


def _die_with_grid() -> None:
    """A run whose grid was killed must not write beside the one that takes its place.

    The process that forked it is the server, which takes its time to notice; the pipe from the grid closes at once.
    Where the server alone is killed, Linux tells its children.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    grid = multiprocessing.parent_process()

    def watch() -> None:
        wait([grid.sentinel])  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _death(status: int) -> str:
    """Why a process ended that could not say so itself."""
    if status > 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"ended by {name}" + (" (often: too little memory)" if name == "SIGKILL" else "")
