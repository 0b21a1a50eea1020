"""Where runs run: in processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Protocol

from propulsion_tools.compare.plan import Run
from propulsion_tools.compare.process import cores, train_in_process, train_together_in_process
from propulsion_tools.compare.run_folders import Failure, read_failure
from propulsion_tools.records import RunSpec
from propulsion_tools.training.checkpoints import last_checkpoint


class Backend(Protocol):
    """Runs runs."""

    slots: int
    """How many at once."""

    def submit(self, run: Run) -> Future[Failure | None]:
        """Start a run, or let it wait for its turn; the future holds why it failed, or None."""

    def close(self) -> None:
        """End what still runs."""


class LocalProcesses:
    """Each run is a process of this machine; the cores are shared equally.

    Args:
        jobs: How many runs at once.
    """

    def __init__(self, jobs: int) -> None:
        self.slots = jobs
        self._threads = max(1, cores() // jobs)
        self._pool = ThreadPoolExecutor(jobs)
        self._running: dict[str, BaseProcess] = {}
        self._lock = Lock()
        self._closed = False

    def submit(self, run: Run) -> Future[Failure | None]:
        """Start a run as soon as one of the slots is free."""
        return self._pool.submit(self._train, run)

    def submit_together(self, runs: Sequence[Run], measure: bool) -> Future[list[Failure | None]]:
        """Start runs in one process, and in one batch where they can be.

        Where the process dies, those that had not ended are run again, each in a process of its own.

        Args:
            runs: Those.
            measure: Whether they go on one after the other where that is as fast.
        """
        return self._pool.submit(self._train_together, list(runs), measure)

    def _train_together(self, runs: list[Run], measure: bool) -> list[Failure | None]:
        specs, first = [spec_to_train(run) for run in runs], runs[0].folder
        try:
            failures = train_together_in_process(specs, measure, self._threads, on_start=partial(self._started, first))
        finally:
            with self._lock:
                self._running.pop(first, None)
        ended: list[Failure | None] = []
        for run, failure in zip(runs, failures, strict=True):
            died = failure is not None and read_failure(Path(run.folder)) is None
            ended.append(self._train(run) if died and not self._closed else failure)
        return ended

    def _train(self, run: Run) -> Failure | None:
        try:
            return train_in_process(spec_to_train(run), self._threads, on_start=partial(self._started, run.folder))
        finally:
            with self._lock:
                self._running.pop(run.folder, None)

    def _started(self, folder: str, process: BaseProcess) -> None:
        with self._lock:
            self._running[folder] = process
            if self._closed:
                process.kill()

    def close(self) -> None:
        """End what still runs, and start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for process in self._running.values():
                process.kill()


def spec_to_train(run: Run) -> RunSpec:
    """What a run's process is given: its spec, from its last checkpoint, if it has one, and over what else is there."""
    resume = True if last_checkpoint(Path(run.folder)) else None
    return replace(run.spec, overwrite_output_dir=True, resume_from_checkpoint=resume)
