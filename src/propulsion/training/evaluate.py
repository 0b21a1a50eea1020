"""Use a finished run: score it again, or label texts with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from propulsion.errors import ConfigError, near_misses
from propulsion.methods import get_method
from propulsion.records import RunRecord, RunSpec
from propulsion.tasks import TaskData, get_task
from propulsion.training.job import Job, assemble, data_source, make_trainer
from propulsion.training.models import quiet_transformers
from propulsion.training.options import EvaluateOptions
from propulsion.training.run import scores
from propulsion.training.store import load_trained


def evaluate(adapter_dir: Path, options: EvaluateOptions) -> dict[str, dict[str, float]]:
    """The metrics of a finished run.

    Args:
        adapter_dir: The output folder of `train`.
        options: What differs from the run's own record.

    Returns:
        split → metric → value, as in record.json.

    Raises:
        ConfigError: There is no record, or no such split.
        DataError: The data cannot be evaluated on.
        AdapterFileError: The weights are missing, damaged, or those of another model.
    """
    record = RunRecord.read(adapter_dir)
    spec = _changed(record.spec, options)
    task = get_task(str(spec.task))
    data = task.load(data_source(spec))
    if record.label_names and data.label_names != record.label_names:
        data = _with_labels(data, record.label_names)
    job = restore(adapter_dir, replace(record, spec=spec), data)
    splits = _chosen(job, options.split)
    trainer = make_trainer(job, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    return {split: scores(trainer, job, split) for split in splits}


def _changed(spec: RunSpec, options: EvaluateOptions) -> RunSpec:
    names = ("task", "data_dir", "dataset_name", "max_eval_samples", "per_device_eval_batch_size")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "data_dir" in given or "dataset_name" in given:  # one source of data, not the record's and another
        given = {"data_dir": None, "dataset_name": None, "dataset_config_name": None} | given
    return replace(
        spec, **given, early_stopping_patience=None, disable_tqdm=options.disable_tqdm, use_cpu=options.use_cpu
    )


def _with_labels(data: TaskData, label_names: tuple[str, ...]) -> TaskData:
    raise ConfigError(
        f"The labels of this data ({', '.join(data.label_names or ('none',))}) are not those that the adapter was "
        f"trained with ({', '.join(label_names)})."
    )


def _chosen(job: Job, split: str | None) -> list[str]:
    if split is None:
        return job.eval_splits
    if split not in job.data.splits:
        hint = near_misses(split, job.data.splits) or f" There are {', '.join(job.data.splits)}."
        raise ConfigError(f"The data has no split {split!r}.{hint}")
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
    get_method(record.spec.method)
    data = data or TaskData(splits={}, label_names=record.label_names, notes=())
    tokenizer = str(adapter_dir) if (adapter_dir / "tokenizer_config.json").exists() else None
    with quiet_transformers():
        job = assemble(record.spec, get_task(str(record.spec.task)), data, tokenizer)
    load_trained(job.model, adapter_dir)
    job.model.eval()
    return job
