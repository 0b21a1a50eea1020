"""Runs that are killed, or lose their disk, end as if they had not: a few of the trials of benchmarks/chaos.py."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import chaos
import chaos_runs as runs

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
HEAD_FIRST, RECOVERS, BEST_FIRST, SAVES_NONE = 4, 17, 12, 21
"""Settings: the head trains first, with dropout; the rate runs away, and is lowered; the first checkpoint is best; no
checkpoints."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chaos.Bench]:
    root, threads = tmp_path_factory.mktemp("chaos"), torch.get_num_threads()
    made = chaos.Bench(root, runs.make_subject(root))
    runs.preload(made.subject)  # or each of the forks below would import all of it
    for number in (HEAD_FIRST, RECOVERS, BEST_FIRST, SAVES_NONE):
        made.make_reference(number)
    yield made
    torch.set_num_threads(threads)


def test_the_settings_are_what_they_are_called(bench: chaos.Bench) -> None:
    assert runs.settings(HEAD_FIRST)["head_first"] > 0
    assert runs.settings(HEAD_FIRST)["dropout"] != 0.0
    record = (bench.root / f"whole-{RECOVERS}" / "run" / "record.json").read_text()
    assert '"back_to": 0' in record
    found = (bench.root / f"whole-{BEST_FIRST}" / "run").glob("checkpoint-*")
    # With one to keep, Trainer removes the last, which a run goes on from that is killed while it is scored.
    assert sorted(path.name for path in found) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(
    ("number", "events"), [(HEAD_FIRST, (30, 9)), (HEAD_FIRST, (61,)), (RECOVERS, (47,)), (BEST_FIRST, (55,))]
)
def test_killed_at_a_change_of_the_file_system(
    number: int, events: tuple[int, ...], bench: chaos.Bench, tmp_path: Path
) -> None:
    for event in events:
        kill = runs.at_event(event, runs.kill_itself)
        status = runs.ended(runs.forked(tmp_path, bench.command(number), kill))
        assert status == -signal.SIGKILL
    assert bench.finish(number, tmp_path) == "same"


def test_killed_in_the_middle_of_a_file(bench: chaos.Bench, tmp_path: Path) -> None:
    limit = runs.at_event(40, runs.limit_files(700), too_large=signal.SIG_DFL)
    status = runs.ended(runs.forked(tmp_path, bench.command(RECOVERS), limit))
    assert status == -signal.SIGXFSZ
    assert bench.finish(RECOVERS, tmp_path) == "same"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_is_named_and_nothing_is_lost(error: int, bench: chaos.Bench, tmp_path: Path) -> None:
    fail = runs.at_event(25, runs.fail_with(error), again=True)
    assert runs.ended(runs.forked(tmp_path, bench.command(RECOVERS), fail)) == chaos.REFUSED
    assert bench.finish(RECOVERS, tmp_path) == "same"


def test_a_run_that_differs_is_seen(bench: chaos.Bench, tmp_path: Path) -> None:
    one, other = bench.root / f"whole-{RECOVERS}" / "run", tmp_path / "run"
    shutil.copytree(one, other)
    assert runs.differences(one, other) == []
    weights = load_file(other / "adapter_model.safetensors")
    save_file({name: tensor + 1e-7 for name, tensor in weights.items()}, other / "adapter_model.safetensors")
    (other / "left.tmp").touch()
    said = "manifest.json: adapter_model.safetensors has changed since it was written"
    assert runs.differences(one, other) == ["only one has left.tmp", "adapter_model.safetensors", said]
    assert runs.differences(one, other, 1e-5) == ["only one has left.tmp", said]
    chaos.damage(other / "adapter_model.safetensors", "one bit", random.Random(0))
    assert "adapter_model.safetensors" in runs.differences(one, other)
    result = chaos.Result("kill", "change", "3: adapter_model.safetensors", kills=1)
    assert chaos.figures([result])["kill"] == {
        "trials": 1, "same": 0, "refused": 0, "lost": 1, "ways": {"change": 1}, "kills": 1,
    }  # fmt: skip


def test_what_a_trial_damaged_itself_is_not_lost_and_all_else_is(bench: chaos.Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.root / f"whole-{RECOVERS}" / "run", tmp_path / "run")
    checkpoint = sorted((tmp_path / "run").glob("checkpoint-*"))[-1]
    damaged = [f"{checkpoint.name}/manifest.json", f"{checkpoint.name}/optimizer.pt"]
    (checkpoint / "optimizer.pt").unlink()
    assert "optimizer.pt is missing" in bench.finish(RECOVERS, tmp_path)
    (checkpoint / "manifest.json").unlink()
    assert bench.finish(RECOVERS, tmp_path, damaged) == "same"
    assert bench.finish(RECOVERS, tmp_path, damaged[:1]) == f"only one has {checkpoint.name}/optimizer.pt"
    (tmp_path / "run/adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in bench.finish(RECOVERS, tmp_path, damaged)


def test_a_run_that_has_ended_is_not_begun_again_to_be_killed(bench: chaos.Bench, tmp_path: Path) -> None:
    assert bench.finish(SAVES_NONE, tmp_path) == "same"
    result = chaos._killed("kill", SAVES_NONE, bench, random.Random(0), tmp_path)
    assert result.outcome == chaos.NOTHING_DONE
