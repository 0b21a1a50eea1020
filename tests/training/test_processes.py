"""Two processes train as one does, and one of them speaks."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, RunSpec
from propulsion_tools.records.options import PredictOptions
from propulsion_tools.training.predict import predict
from propulsion_tools.training.run import train

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.slow
def test_two_processes_of_half_a_batch_are_one(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    runs = {}
    for name, launch, rows in (("one", [], 16), ("two", TWO, 8)):
        spec = make_spec(
            output_dir=str(tmp_path / name),
            method="propulsion",
            dropout=0.0,
            per_device_train_batch_size=rows,
            save_strategy="steps",
            save_steps=2,
            logging_steps=1,
            max_eval_samples=28,  # not a multiple of the 8 that two processes score at once
            per_device_eval_batch_size=4,
        )
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint-1").mkdir()  # left half-written by a run that was killed
        words = [
            f"--{item.name}={value}" for item in fields(spec) if (value := getattr(spec, item.name)) != item.default
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, "-m", "propulsion", "train", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Written to") == 1
        assert done.stdout.count("28 of 32 rows") == 1
        runs[name] = tmp_path / name
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


# Accelerate shards on accelerators alone; all else is as `accelerate launch` with FSDP2 does it.
SHARDED = """
import sys
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

begin = AcceleratorState.__init__

def sharding_on_the_cpu(self, *args, fsdp_plugin=None, **kwargs):
    begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

AcceleratorState.__init__ = sharding_on_the_cpu
from propulsion_tools.cli.dispatch import run
sys.exit(run(sys.argv[1:]))
"""
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
ASK = """
import sys
from pathlib import Path
from propulsion_tools.records import write_atomically
from propulsion_tools.records.options import EvaluateOptions, PredictOptions
from propulsion_tools.training import processes
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.predict import predict

run, rows, output = map(Path, sys.argv[1:])
quiet = {"per_device_eval_batch_size": 4, "disable_tqdm": True, "use_cpu": True}
metrics = evaluate(run, EvaluateOptions(**quiet))
predict(run, PredictOptions(input=str(rows), output=str(output), **quiet))
if processes.is_first():
    write_atomically(output.with_suffix(".metrics"), repr(metrics["validation"]))
processes.leave_process_group()
"""


def launched(program: Path, text: str, words: list[str], **environment: str) -> None:
    """Run a program in two processes."""
    program.write_text(text)
    command = [sys.executable, *TWO, str(program), *words]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
    make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    # 60 rows in batches of 16: the last one is filled with rows of others where processes share it.
    changes = {"dropout": 0.0, "head_first": 0.4, "logging_steps": 1, "max_train_samples": 60, "max_eval_samples": 27}
    changes |= {
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 9,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
    }
    alone = make_spec(output_dir=str(tmp_path / "alone"), per_device_train_batch_size=16, **changes)
    train(alone)
    shared = make_spec(output_dir=str(tmp_path / "shared"), **changes)
    words = [f"--{x.name}={v}" for x in fields(shared) if (v := getattr(shared, x.name)) != x.default]
    launched(tmp_path / "sharded.py", SHARDED, ["train", *words], **FSDP2)
    assert_same_run(tmp_path / "alone", tmp_path / "shared")
    configurations = [(tmp_path / name / "adapter_config.json").read_text() for name in ("alone", "shared")]
    assert configurations[0] == configurations[1]
    # From two processes to one, in the middle of an epoch, and from one to two.
    for start, end in (("shared", "one"), ("alone", "two")):
        shutil.copytree(tmp_path / start / "checkpoint-3", tmp_path / end / "checkpoint-3")
    train(replace(alone, output_dir=str(tmp_path / "one"), resume_from_checkpoint=True))
    assert_same_run(tmp_path / "alone", tmp_path / "one")
    words = [word for word in words if not word.startswith("--output_dir")]
    words += [f"--output_dir={tmp_path / 'two'}", "--resume_from_checkpoint=true"]
    launched(tmp_path / "sharded.py", SHARDED, ["train", *words], **FSDP2)
    assert_same_run(tmp_path / "alone", tmp_path / "two")
    for name in (RECORD_FILE, "adapter_model.safetensors"):  # as of a run that was killed behind its last step
        (tmp_path / "two" / name).unlink()
    launched(tmp_path / "sharded.py", SHARDED, ["train", *words], **FSDP2)
    assert_same_run(tmp_path / "alone", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_score_and_answer_each_row_once(
    make_spec: Callable[..., RunSpec], tmp_path: Path, data_dir: Path
) -> None:
    spec = make_spec(max_eval_samples=27, per_device_eval_batch_size=4, max_steps=2)
    record = train(spec)
    rows = "".join((data_dir / "validation.jsonl").read_text().splitlines(keepends=True)[:27])
    (tmp_path / "rows.jsonl").write_text(rows)
    words = [str(spec.output_dir), str(tmp_path / "rows.jsonl"), str(tmp_path / "answers.jsonl")]
    launched(tmp_path / "ask.py", ASK, words)
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
