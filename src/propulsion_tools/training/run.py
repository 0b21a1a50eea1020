"""One training run, in seven sentences: words → `RunSpec` → … → `RunRecord`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.heads import count_parameters
from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, RunSpec
from propulsion_tools.tasks import TaskData, get_task
from propulsion_tools.tasks.base import KeepsRows
from propulsion_tools.training.checkpoints import clear, resume_point
from propulsion_tools.training.job import Job, assemble, check_device, load_data, make_trainer, resolve, split_metrics
from propulsion_tools.training.loss_curve import draw_curves
from propulsion_tools.training.measure import (
    StepClock,
    bytes_of_weights,
    environment,
    peak_memory,
    reset_peak,
    weight_bytes,
)
from propulsion_tools.training.model_card import write_card
from propulsion_tools.training.trained_files import save_trained
from propulsion_tools.training.trainer import RunTrainer


class Scores(NamedTuple):
    """What scoring one split gave."""

    metrics: dict[str, float]
    seconds: float
    rows: dict[str, np.ndarray]
    """``labels`` and ``answers``, one per row of the split; nothing where a task does not keep them."""


def train(spec: RunSpec, tell: Callable[[str], object] = str, data: TaskData | None = None) -> RunRecord:
    """Train, score, measure, and write it all to the output folder; the record comes last.

    Args:
        spec: What to run. Fields that are None are filled in by the task and the method.
        tell: Is told what was guessed or left out, before the training starts, and what its end shows.
        data: Rows to train on; None: those that the spec names.

    Returns:
        What is in record.json.

    Raises:
        OptionError: A field is wrong, or the output folder holds a run already.
        DataError: The data cannot be trained on.
        NotFiniteError: The loss or a gain left the finite range; the last good checkpoint is kept.
    """
    spec = resolve(spec)
    check_device(spec)
    folder = _output_folder(spec)
    resume = resume_point(spec, folder)
    task = get_task(str(spec.task))
    data = load_data(spec) if data is None else data
    for note in data.notes:
        tell(note)
    job = assemble(spec, task, data)
    for note in job.notes[len(data.notes) :]:
        tell(note)
    trainer = make_trainer(job)
    if trainer.is_world_process_zero():
        clear(folder, keep_checkpoints=resume is not None)
    start = reset_peak()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    found = {split: scores(trainer, job, split) for split in job.eval_splits}
    remarks = [remark for split, item in found.items() if (remark := one_answer(split, item))]
    for remark in remarks:
        tell(remark)
    job = replace(job, notes=(*job.notes, *remarks))
    record = measure(job, trainer, found, start)
    return write_outputs(job, record, found, folder) if trainer.is_world_process_zero() else record


def _output_folder(spec: RunSpec) -> Path:
    folder = Path(str(spec.output_dir))
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"output_dir {folder} is a file.")
    if folder.resolve() == Path(spec.model_name_or_path).resolve():
        raise OptionError(f"output_dir {folder} is the folder of the base model, which would be overwritten.")
    return folder


def measure(job: Job, trainer: RunTrainer, found: dict[str, Scores], start: int) -> RunRecord:
    """The scores of every split but the training split, and the costs beside them; `start` are the bytes before."""
    clock = next(item for item in trainer.callback_handler.callbacks if isinstance(item, StepClock))
    return RunRecord(
        spec=job.spec,
        metrics={split: item.metrics for split, item in found.items()},
        parameters=count_parameters(job.model, job.heads),
        adapter_bytes=0,
        seconds={
            "train": clock.train,
            "steps": sum(clock.steps),
            "evaluate": sum(item.seconds for item in found.values()),
            "per_step_median": clock.per_step_median,
        },
        peak_memory_bytes=peak_memory(),
        memory_bytes={"weights": bytes_of_weights(job.model), "start": start},
        environment=environment(trainer.args.device),
        label_names=job.data.label_names,
        history=history(job, trainer),
        notes=job.notes,
        columns=dict(job.data.columns),
    )


def scores(trainer: RunTrainer, job: Job, split: str) -> Scores:
    """The task's metrics and the loss on a split; not computed twice for equal weights."""
    found = _just_found(trainer, job, split)
    if found is None:
        trainer.compute_metrics = split_metrics(job, split)
        found = trainer.evaluate(job.encoded[split])
    timings = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    named = {name.removeprefix("eval_"): value for name, value in found.items() if name.startswith("eval_")}
    metrics = {name: value for name, value in named.items() if name not in timings}
    rows = trainer.compute_metrics.scored if isinstance(trainer.compute_metrics, KeepsRows) else {}
    return Scores(metrics, named["runtime"], rows)


def one_answer(split: str, found: Scores) -> str | None:
    """What to say where every row of a split got the same class, though not all have it."""
    answers, labels = found.rows.get("answers"), found.rows.get("labels")
    if answers is None or labels is None or answers.dtype.kind not in "iu" or answers.ndim != 1:
        return None
    if len(np.unique(answers)) != 1 or len(np.unique(labels)) == 1:
        return None
    return (
        f"All {len(answers):,} rows of {split} got the same answer: nothing was learned, or the training collapsed. "
        "Try more steps where the loss has hardly moved, and a third of the learning rate where it fell and rose again."
    )


def _just_found(trainer: RunTrainer, job: Job, split: str) -> dict[str, float] | None:
    """What the evaluation after the last training step gave, if there was one and the weights are still those."""
    if split not in job.eval_splits[:1] or trainer.args.load_best_model_at_end:
        return None
    last = next((entry for entry in reversed(trainer.state.log_history) if "eval_runtime" in entry), None)
    return last if last and last["step"] == trainer.state.global_step else None


def history(job: Job, trainer: RunTrainer) -> dict[str, list[list[float]]]:
    """The loss, and the main metric of the validation split, as [step, value] pairs without repetition."""
    curves: dict[str, dict[float, float]] = {}
    for entry in trainer.state.log_history:
        for name in ("loss", f"eval_{job.task.main_metric}"):
            if name in entry:
                curves.setdefault(name.removeprefix("eval_"), {})[entry["step"]] = entry[name]
    return {name: [[step, value] for step, value in sorted(points.items())] for name, points in curves.items()}


def write_outputs(job: Job, record: RunRecord, found: dict[str, Scores], folder: Path) -> RunRecord:
    """Adapter, tokenizer, answers, model card, loss curve; the record comes last, and says that all of it is there."""
    save_trained(job.model, folder)
    job.tokenizer.save_pretrained(str(folder))
    record = replace(record, adapter_bytes=weight_bytes(folder))
    rows: dict[str, Any] = {
        f"{split}_{name}": values for split, item in found.items() for name, values in item.rows.items()
    }
    np.savez_compressed(folder / PREDICTIONS_FILE, **rows)
    write_card(record, job.task, folder)
    draw_curves(record, job.task.main_metric, folder / "loss_curve.png")
    record.write(folder / RECORD_FILE)
    return record
