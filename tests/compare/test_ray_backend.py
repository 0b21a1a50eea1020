"""Laws of the cluster: the same runs, and a worker that is killed takes nothing with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.compare.ray_backend import RayTasks, train_there
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.runner import run_grid
from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from tests.grids import MakeGrid, Notes

pytest.importorskip("ray", reason="ray is not installed: pip install 'propulsion-peft[distributed]'")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head with one core, to which a worker is added, all on this machine."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # or bitsandbytes brings all of Inductor, which nothing here uses
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


class KillsAWorker(Notes):
    """Kills the worker as soon as it and the head have been given a run."""

    def __init__(self, cluster: Any, victim: Any) -> None:
        super().__init__()
        self.cluster, self.victim = cluster, victim

    def started(self, run: Any) -> None:
        super().started(run)
        if len(self.ran) == 2:
            self.wait_until_both_run()
            self.cluster.remove_node(self.victim, allow_graceful=False)

    def wait_until_both_run(self) -> None:
        """Both logs exist once both processes have begun; the test's timeout ends a wait for nothing."""
        while not all((Path(run.folder) / "log.txt").exists() for run in self.ran):
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_killed_midway_loses_nothing(cluster: Any, make_grid: MakeGrid, tmp_path: Path) -> None:
    worker = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    grid = make_grid(seeds=[1, 2, 3], settings={"max_steps": 200})
    backend = RayTasks(cluster.address)
    assert backend.slots == 2
    notes = KillsAWorker(cluster, worker)
    result = run_grid(grid, backend, notes)[0]
    assert len(notes.ran) == 3
    assert [run.spec.seed for run, _ in result.records] == [1, 2, 3]
    assert result.failures == []
    assert all_results(grid) == [result]


def test_no_cluster_at_the_address_is_one_sentence() -> None:
    with pytest.raises(OptionError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        RayTasks("127.0.0.1:1")


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    failure = train_there(RunSpec(output_dir="runs"), 1, str(tmp_path / "elsewhere"))
    assert failure is not None
    assert "does not see" in failure.error
