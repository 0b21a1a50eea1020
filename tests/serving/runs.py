"""Finished runs whose vectors were made up rather than trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from propulsion_tools.records import RECORD_FILE, RunRecord, RunSpec
from propulsion_tools.tasks import TaskData
from propulsion_tools.training.build import build
from propulsion_tools.training.trained_files import save_trained
from tests.propulsion.steered import train_by_chance


def save_run(
    folder: Path,
    base: Path,
    task: str,
    labels: tuple[str, ...] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 1,
    **spec: Any,
) -> Path:
    """A run of `propulsion train`, as it is left on the disk."""
    values = {"max_length": 24, "doc_stride": 8, "use_cpu": True, "disable_tqdm": True, **spec}
    asked = RunSpec(task=task, model_name_or_path=str(base), output_dir=str(folder), **values)
    job = build(asked, TaskData({}, labels, (), columns or {}), training=False)
    train_by_chance(job.model, seed=seed)
    save_trained(job.model, folder)
    job.tokenizer.save_pretrained(folder)
    record = RunRecord(
        spec=job.spec,
        metrics={},
        parameters=dict.fromkeys(("adapter", "head", "trainable", "total"), 1),
        adapter_bytes=1,
        seconds=dict.fromkeys(("train", "per_step_median"), 1.0),
        peak_memory_bytes=1,
        environment={"versions": {}, "device": "cpu", "threads": 1},
        label_names=labels,
        columns=dict(columns or {}),
    )
    record.write(folder / RECORD_FILE)
    return folder
