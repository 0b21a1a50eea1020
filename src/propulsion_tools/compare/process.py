"""One run in a process of its own, so that its peak memory is its own and its death takes nothing with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from propulsion_tools.compare.run_folders import LOG_FILE, Failure, forget_failure

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_START = threading.Lock()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_in_process(
    words: Sequence[str], folder: str, threads: int, started: Callable[[BaseProcess], object] = id
) -> Failure | None:
    """Run `propulsion train`.

    Args:
        words: What comes after `propulsion train`.
        folder: Its output folder; what it prints goes to log.txt there.
        threads: How many it may use.
        started: Is told of the process, so that it can be ended.

    Returns:
        None, or why there is no record.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    forget_failure(path)
    begun = time.monotonic()
    with _START:
        process = _context().Process(target=_run, args=(tuple(words), str(path / LOG_FILE), threads))  # type: ignore[attr-defined]
        process.start()
    started(process)
    process.join()
    status = process.exitcode or 0
    return Failure(_last_words(path / LOG_FILE, status), status, time.monotonic() - begun) if status else None


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


def _run(words: tuple[str, ...], log: str, threads: int) -> None:
    """`python -m propulsion train`, with its output in a file."""
    _die_with_grid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    import torch

    torch.set_num_threads(threads)
    sys.argv = ["propulsion", "train", *words]
    runpy.run_module("propulsion", run_name="__main__")


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


def _last_words(log: Path, status: int) -> str:
    """The sentence that tells why: that of our own error, or the last line, or the signal."""
    if status < 0:
        name = signal.Signals(-status).name
        return f"ended by {name}" + (" (often: too little memory)" if name == "SIGKILL" else "")
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    ours = [line.removeprefix("propulsion: ") for line in lines if line.startswith("propulsion: ")]
    return (ours or lines or [f"exit status {status}"])[-1].strip()
