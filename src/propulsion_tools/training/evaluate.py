"""Use a finished run: score it again, or label texts with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from propulsion_tools.errors import DataError, check_name
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.records.options import EvaluateOptions
from propulsion_tools.records.run_spec import EVALUATE
from propulsion_tools.tasks import TaskData
from propulsion_tools.training.build import Job, build
from propulsion_tools.training.data import load_data
from propulsion_tools.training.moved_runs import located
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.scoring import score
from propulsion_tools.training.trained_files import refuse_changed
from propulsion_tools.training.trainer import make_trainer


def evaluate(adapter_dir: Path, options: EvaluateOptions, notify: Notify = keep_quiet) -> dict[str, dict[str, float]]:
    """The metrics of a finished run.

    Args:
        adapter_dir: The output folder of `train`.
        options: What differs from the run's own record.
        notify: Is told what was guessed or left out.

    Returns:
        split → metric → value, as in record.json.

    Raises:
        OptionError: There is no record.
        UnknownNameError: There is no such split; names the near misses.
        DataError: The data cannot be evaluated on.
        AdapterFileError: The weights are missing, damaged, or those of another model.
    """
    record = RunRecord.read(adapter_dir)
    spec = located(record.spec, adapter_dir, options).overridden(EVALUATE, options)
    # The trainer makes its output folder: that of the record may be gone.
    spec = replace(spec, early_stopping_patience=None, output_dir=str(adapter_dir))
    if options.data_dir is None and options.dataset_name is None:
        spec = _with_columns(spec, record)
    record = replace(record, spec=spec)
    data = load_data(spec, training=False)
    for note in data.notes:
        notify(note)
    _refuse_other_labels(data, record)
    data = replace(data, splits={name: data.splits[name] for name in _chosen(data, options.split)})
    job = restore(adapter_dir, record, data)
    trainer = make_trainer(job, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    trainer.shard_for_scoring()
    return {split: score(trainer, job, split).metrics for split in data.splits}


def _with_columns(spec: RunSpec, record: RunRecord) -> RunSpec:
    """The columns that the run has read from this data: what is known need not be guessed again."""
    read: dict[str, Any] = {**record.columns, "label_column": record.label_column}
    return replace(spec, **{name: column for name, column in read.items() if getattr(spec, name) is None})


def _refuse_other_labels(data: TaskData, record: RunRecord) -> None:
    if data.label_names != record.label_names:
        raise DataError(
            f"The labels of this data ({', '.join(data.label_names or ('numbers',))}) are not those that the adapter "
            f"was trained with ({', '.join(record.label_names or ('numbers',))})."
        )


def _chosen(data: TaskData, split: str | None) -> list[str]:
    if split is None:
        chosen = [name for name in data.splits if name != "train"]
        if not chosen:
            raise DataError("The data has no split beside train: add a validation file, or pass --split train.")
        return chosen
    check_name("split", split, data.splits)
    return [split]


def restore(adapter_dir: Path, record: RunRecord, data: TaskData | None = None) -> Job:
    """The job of a finished run, with its trained weights in place and the model in evaluation mode.

    Args:
        adapter_dir: The output folder of `train`.
        record: Its record.
        data: Data to evaluate on; None: the labels are taken from the record, and there is no data.

    Raises:
        AdapterFileError: The weights are missing, damaged, or those of another model.
    """
    refuse_changed(adapter_dir)
    data = data or TaskData(splits={}, label_names=record.label_names, notes=(), columns=record.columns)
    job = build(record.spec, data, trained=adapter_dir, training=False)
    job.model.eval()
    return job
