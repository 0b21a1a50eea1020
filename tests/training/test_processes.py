"""Two processes train as one does, and one of them speaks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, RunSpec

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
