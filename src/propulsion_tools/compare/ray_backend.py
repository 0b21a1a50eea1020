"""Runs as tasks of a Ray cluster: one that is running already, by its address, or one on this machine."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from propulsion_tools.compare.local_backend import spec_to_train
from propulsion_tools.compare.plan import Run
from propulsion_tools.compare.process import cores, train_in_process
from propulsion_tools.compare.run_folders import Failure
from propulsion_tools.records import RunSpec
from propulsion_tools.training.ray_cluster import connect, import_ray

RETRIES = 3
"""How often a run is started again when the worker that it is on dies."""


class RayTasks:
    """Each run is a task; one that dies with its worker is started again on another.

    Every worker must find the same files as this process, at the same paths: runs are written where they are run.

    Args:
        address: Of a running cluster; None: one is started on this machine, and ended with the grid.
        jobs: How many runs at once; None: as many as the cluster has cores.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: There is no cluster at the address.
    """

    def __init__(self, address: str | None, jobs: int | None = None) -> None:
        self._ray = import_ray("ray", "distributed", address)
        connect(self._ray, address, jobs or cores())
        self._cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.slots = jobs or self._cores
        share = max(1, self._cores // self.slots)
        self._task = self._ray.remote(num_cpus=share, max_retries=RETRIES)(train_there)
        self._threads = share

    def submit(self, run: Run) -> Future[Failure | None]:
        """Start a run on whatever worker has room for it."""
        reference = self._task.remote(spec_to_train(run), self._threads, os.getcwd())
        outer: Future[Failure | None] = Future()
        reference.future().add_done_callback(lambda inner: outer.set_result(self._result(inner)))
        return outer

    def _result(self, task: Future[Any]) -> Failure | None:
        if error := task.exception():
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Failure(f"no worker of the cluster could finish it: {lines[0]}", 1, 0.0)
        failure: Failure | None = task.result()
        return failure

    def close(self) -> None:
        """Leave the cluster, and end what still runs."""
        self._ray.shutdown()


def train_there(spec: RunSpec, threads: int, directory: str) -> Failure | None:
    """`train_in_process`, on a worker, in the directory that the grid was started in."""
    try:
        os.chdir(directory)
    except OSError as error:
        return Failure(f"the worker on {os.uname().nodename} does not see {directory}: {error.strerror}", 1, 0.0)
    return train_in_process(spec, threads)
