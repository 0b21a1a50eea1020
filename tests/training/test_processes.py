"""Two processes train as one does, and one of them speaks."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.testing import assert_close

from propulsion_tools.cli import main
from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, RunSpec, write_atomically
from propulsion_tools.records.options import EvaluateOptions, PredictOptions
from propulsion_tools.training import collapse, processes
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.predict import predict
from propulsion_tools.training.run import train
from tests.processes import environment, together

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "propulsion"]


def words_of(spec: RunSpec) -> list[str]:
    """The command that trains it."""
    named = ((item.name, getattr(spec, item.name), item.default) for item in fields(spec))
    return ["train", *(f"--{name}={value}" for name, value, default in named if value != default)]


@pytest.mark.slow
def test_two_processes_of_half_a_batch_are_one(
    make_spec: Callable[..., RunSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {name: tmp_path / name for name in ("one", "two")}
    commands = {}
    for name, rows in (("one", 16), ("two", 8)):
        spec = make_spec(
            output_dir=str(runs[name]),
            method="propulsion",
            dropout=0.0,
            per_device_train_batch_size=rows,
            save_strategy="steps",
            save_steps=2,
            logging_steps=1,
            max_eval_samples=28,  # not a multiple of the 8 that two processes score at once
            per_device_eval_batch_size=4,
        )
        (runs[name] / "checkpoint-1").mkdir(parents=True)  # left half-written by a run that was killed
        commands[name] = words_of(spec)
    assert main(commands["one"]) == 0
    done = subprocess.run(
        [*TORCHRUN, *commands["two"]], env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for said in (capsys.readouterr().out, done.stdout):
        assert said.count("Written to") == 1
        assert said.count("28 of 32 rows") == 1
    one, two = (RunRecord.read(folder / RECORD_FILE) for folder in runs.values())
    assert two.metrics["validation"] == pytest.approx(one.metrics["validation"], rel=1e-4)
    assert [step for step, _ in two.history["loss"]] == [step for step, _ in one.history["loss"]]
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in runs.values())
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert_close(second[key], value, rtol=1e-3, atol=1e-5)
    answers = [np.load(folder / PREDICTIONS_FILE) for folder in runs.values()]
    for key in answers[0].files:
        np.testing.assert_array_equal(answers[0][key], answers[1][key])


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


LOOKS = 3, 1
"""Steps over which a loss is averaged, and between two looks at the gradients: the runs have eight."""


def sharded(words: list[str]) -> None:
    """The command, in processes that share the model's parameters.

    Accelerate shards on accelerators alone; all else is as `accelerate launch` with FSDP2 does it.
    """
    begin = AcceleratorState.__init__

    def sharding_on_the_cpu(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = sharding_on_the_cpu
    collapse.WINDOW, collapse.LOOK_EVERY = LOOKS
    assert main(words) == 0


def gradients_seen(run: Path) -> list[float]:
    """The norms of the adapter's gradient that a run has kept."""
    (last,) = run.glob("checkpoint-6/collapse.safetensors")
    return list(json.loads(bytes(load_file(last)["state"].tolist()))["gradients"])


def asked(run: Path, rows: Path, output: Path) -> None:
    """Scores and answers of a run by all processes."""
    quiet: dict[str, Any] = {"per_device_eval_batch_size": 4, "disable_tqdm": True, "use_cpu": True}
    metrics = evaluate(run, EvaluateOptions(**quiet))
    predict(run, PredictOptions(input=str(rows), output=str(output), **quiet))
    if processes.is_first():
        write_atomically(output.with_suffix(".metrics"), repr(metrics["validation"]))
    processes.leave_process_group()


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses at all steps, the same scores and the same adapter, to rounding."""
    first, second = RunRecord.read(one), RunRecord.read(other)
    assert second.metrics["validation"] == pytest.approx(first.metrics["validation"], abs=1e-5)
    losses = [[loss for _, loss in record.history["loss"]] for record in (first, second)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    tensors = [load_file(folder / "adapter_model.safetensors") for folder in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for key, value in tensors[0].items():
        assert_close(tensors[1][key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_sharded_by_fsdp2_trains_saves_resumes_and_answers_as_one_process(
    make_spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, steps in zip(("WINDOW", "LOOK_EVERY"), LOOKS, strict=True):
        monkeypatch.setattr(collapse, name, steps)
    # 60 rows in batches of 16: the last one is filled with rows of others where processes share it.
    changes = {"dropout": 0.0, "head_first": 0.4, "logging_steps": 1, "max_train_samples": 60, "max_eval_samples": 27}
    changes |= {
        "num_vectors": 2,  # one for each process
        "init_noise": 0.01,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 9,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
    }
    alone = make_spec(output_dir=str(tmp_path / "alone"), per_device_train_batch_size=16, **changes)
    train(alone)
    shared = make_spec(output_dir=str(tmp_path / "shared"), **changes)
    together(sharded, words_of(shared), **FSDP2)
    assert_same_run(tmp_path / "alone", tmp_path / "shared")
    norms = gradients_seen(tmp_path / "alone")
    assert len(norms) > 1
    assert gradients_seen(tmp_path / "shared") == pytest.approx(norms, rel=1e-4)
    configurations = [(tmp_path / name / "adapter_config.json").read_text() for name in ("alone", "shared")]
    assert configurations[0] == configurations[1]
    # From two processes to one, in the middle of an epoch, and from one to two.
    for start, end in (("shared", "one"), ("alone", "two")):
        shutil.copytree(tmp_path / start / "checkpoint-3", tmp_path / end / "checkpoint-3")
    train(replace(alone, output_dir=str(tmp_path / "one"), resume_from_checkpoint=True))
    assert_same_run(tmp_path / "alone", tmp_path / "one")
    words = words_of(replace(shared, output_dir=str(tmp_path / "two"), resume_from_checkpoint=True))
    together(sharded, words, **FSDP2)
    assert_same_run(tmp_path / "alone", tmp_path / "two")
    for name in (RECORD_FILE, "adapter_model.safetensors"):  # as of a run that was killed behind its last step
        (tmp_path / "two" / name).unlink()
    together(sharded, words, **FSDP2)
    assert_same_run(tmp_path / "alone", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_score_and_answer_each_row_once(
    make_spec: Callable[..., RunSpec], tmp_path: Path, data_dir: Path
) -> None:
    spec = make_spec(max_eval_samples=27, per_device_eval_batch_size=4, max_steps=2)
    record = train(spec)
    rows = "".join((data_dir / "validation.jsonl").read_text().splitlines(keepends=True)[:27])
    (tmp_path / "rows.jsonl").write_text(rows)
    together(asked, Path(str(spec.output_dir)), tmp_path / "rows.jsonl", tmp_path / "answers.jsonl")
    metrics = ast.literal_eval((tmp_path / "answers.metrics").read_text())
    assert metrics == pytest.approx(record.metrics["validation"], abs=1e-6)
    predict(
        Path(str(spec.output_dir)),
        PredictOptions(input=str(tmp_path / "rows.jsonl"), output=str(tmp_path / "one.jsonl"), use_cpu=True),
    )
    answers, expected = ((tmp_path / name).read_text().splitlines() for name in ("answers.jsonl", "one.jsonl"))
    assert [json.loads(line)["text"] for line in answers] == [json.loads(line)["text"] for line in expected]
    labels = [[json.loads(line)["prediction"]["label"] for line in lines] for lines in (answers, expected)]
    assert labels[0] == labels[1]
