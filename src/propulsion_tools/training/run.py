"""One training run, in seven sentences: `train` reads from the words of a user to the record on disk."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from propulsion_tools.errors import CollapseError, NotFiniteError, OptionError
from propulsion_tools.methods.head_training import count_parameters
from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord, RunSpec, atomic, files_aside
from propulsion_tools.records.fields import AUTO
from propulsion_tools.tasks import TaskData
from propulsion_tools.tasks.other_text import first_texts
from propulsion_tools.training.build import Job, build
from propulsion_tools.training.checkpoints import clear, is_over, resume_point, spec_of
from propulsion_tools.training.collapse import in_words
from propulsion_tools.training.data import load_data
from propulsion_tools.training.device import check_device
from propulsion_tools.training.forgetting import TEXTS, measured, measured_before
from propulsion_tools.training.fresh_head import start_fresh_head
from propulsion_tools.training.loss_curve import draw_curves
from propulsion_tools.training.manifest import write_manifest
from propulsion_tools.training.measure import bytes_of_weights, environment, peak_memory, reset_peak
from propulsion_tools.training.model_card import write_card
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.processes import is_first, number_of_processes
from propulsion_tools.training.rate_search import Found, found_before, search_rates
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.scoring import Scores, remark, score
from propulsion_tools.training.sharding import is_trained, whole_parameters
from propulsion_tools.training.together import Place, Together, run_together, why_alone
from propulsion_tools.training.trained_files import save_tokenizer, save_trained, weight_bytes
from propulsion_tools.training.trainer import RunTrainer, make_trainer


def train(
    spec: RunSpec, notify: Notify = keep_quiet, data: TaskData | None = None, place: Place | None = None
) -> RunRecord:
    """Train, score, measure, and write it all to the output folder; the record comes last.

    Args:
        spec: What to run. Fields that are None are filled in by the task and the method.
        notify: Is told what was guessed or left out, before the training starts, and what its end shows.
        data: Rows to train on; None: those that the spec names.
        place: Among runs that are trained together; None: it is trained alone.

    Returns:
        What is in record.json.

    Raises:
        OptionError: A field is wrong, or the output folder holds a run already.
        DataError: The data cannot be trained on.
        NotFiniteError: The loss or a gain left the finite range; the last good checkpoint is kept.
    """
    # 1. Words are a spec, which the task and the method complete; it says where the run starts.
    spec = resolve(spec)
    check_device(spec)
    folder = _output_folder(spec)
    checkpoint = resume_point(spec, folder, notify if is_first() else keep_quiet)

    # 2. The task gives rows, and what was guessed about them.
    read = place.read if place else load_data
    data = read(spec) if data is None else data
    other_text = first_texts(spec.forgetting_text, TEXTS) if spec.forgetting_text else []
    _notify_all(notify, data.notes)
    spec, found = _with_rates(spec, data, checkpoint, notify)

    # 3. The method wraps the base model, which says how the rows become tokens.
    job = build(spec, data)
    _notify_all(notify, job.notes)

    # 4. The trainer of transformers trains, with the task's collator and metric.
    trainer = make_trainer(job)
    if place is not None:
        place.enter(job.model)
        trainer.after_backward = place.backward
    start_fresh_head(job, trainer.args.device)
    if trainer.is_world_process_zero():
        clear(folder, keep_checkpoints=checkpoint is not None)
    loss_before = measured_before(job, other_text) if other_text else None
    bytes_before = reset_peak()
    if checkpoint and is_over(spec, checkpoint):
        trainer.take_up(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    # 5. The task's metric scores every split that was not trained on.
    scores = {split: score(trainer, job, split) for split in job.eval_splits}
    remarks = in_words(trainer.collapse_watch.events)
    remarks += [sentence for split in scores if (sentence := remark(split, scores[split]))]
    _notify_all(notify, remarks)

    # 6. Time, memory and parameters are measured.
    notes = (*data.notes, *found.notes, *job.notes, *remarks)
    record = _record(job, trainer, scores, bytes_before, notes)
    record = replace(record, rate_search=found.tried, joint=place.size if place else 0)
    record = replace(record, apart=place.apart if place else None)
    if loss_before is not None:
        record = replace(record, forgetting={"before": loss_before, "after": measured(job, other_text)})

    # 7. Everything is written, and the record last: it says that all of it is there.
    with whole_parameters(job.model, is_trained):
        return _write(job, record, scores, folder) if trainer.is_world_process_zero() else record


def _with_rates(spec: RunSpec, data: TaskData, checkpoint: Path | None, notify: Notify) -> tuple[RunSpec, Found]:
    """The spec with the rates that were given, that it began with, or that are found on a part of the training rows."""
    if spec.learning_rate != AUTO:
        return spec, Found(spec)
    if checkpoint is not None:
        found = found_before(spec, spec_of(checkpoint))
    else:
        alone = "several processes train it" if number_of_processes() > 1 else why_alone(spec)
        if spec.joint is True and alone:
            notify(f"The tries are trained one after the other: {alone}.")
        at_once = spec.joint is not False and alone is None
        found = search_rates(spec, data, partial(_train_tries, spec.joint == AUTO), at_once, notify)
    _notify_all(notify, found.notes)
    return found.spec, found


def _train_tries(measure: bool, specs: list[RunSpec], rows: TaskData) -> list[RunRecord | BaseException]:
    """The record of each try, or why it failed."""
    if len(specs) == 1:
        try:
            return [train(specs[0], data=rows)]
        except (NotFiniteError, CollapseError) as error:
            return [error]

    def train_at(spec: RunSpec, place: Place) -> RunRecord:
        return train(spec, data=rows, place=place)

    turns = run_together([partial(train_at, spec) for spec in specs], Together(measure))
    return [turn.error or turn.value for turn in turns]


def _output_folder(spec: RunSpec) -> Path:
    folder = Path(str(spec.output_dir))
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"output_dir {folder} is a file.")
    if folder.resolve() == Path(spec.model_name_or_path).resolve():
        raise OptionError(f"output_dir {folder} is the folder of the base model, which would be overwritten.")
    return folder


def _notify_all(notify: Notify, sentences: tuple[str, ...] | list[str]) -> None:
    for sentence in sentences:
        notify(sentence)


def _record(
    job: Job, trainer: RunTrainer, scores: dict[str, Scores], bytes_before: int, notes: tuple[str, ...]
) -> RunRecord:
    """The scores, and what they took; the size on disk is known only when the weights have been written."""
    clock = trainer.step_clock
    return RunRecord(
        spec=job.spec,
        metrics={split: item.metrics for split, item in scores.items()},
        parameters=count_parameters(job.model, job.heads),
        adapter_bytes=0,
        seconds={
            "train": clock.train,
            "steps": sum(clock.steps),
            "evaluate": sum(item.seconds for item in scores.values()),
            "per_step_median": clock.per_step_median,
        },
        peak_memory_bytes=peak_memory(),
        memory_bytes={"weights": bytes_of_weights(job.model), "start": bytes_before},
        environment=environment(trainer.args.device),
        label_names=job.data.label_names,
        history=_history(job, trainer),
        notes=notes,
        columns=dict(job.data.columns),
        rows={split: len(rows) for split, rows in job.data.splits.items()},
        collapses=tuple(trainer.collapse_watch.events),
        label_column=job.data.label_column,
        majority={split: item.majority for split, item in scores.items()},
    )


def _history(job: Job, trainer: RunTrainer) -> dict[str, list[list[float]]]:
    """The loss, the main metric of the validation split and their epochs, as [step, value] pairs without repetition."""
    curves: dict[str, dict[float, float]] = {}
    for entry in trainer.state.log_history:
        for name in ("loss", f"eval_{job.task.main_metric}", "epoch"):
            if name in entry:
                curves.setdefault(name.removeprefix("eval_"), {})[entry["step"]] = entry[name]
    return {name: [[step, value] for step, value in sorted(points.items())] for name, points in curves.items()}


def _write(job: Job, record: RunRecord, scores: dict[str, Scores], folder: Path) -> RunRecord:
    """Answers, adapter and tokenizer with their manifest, model card, loss curve, record."""
    rows: dict[str, Any] = {
        f"{split}_{name}": values for split, item in scores.items() for name, values in item.rows.items()
    }
    with atomic(folder / PREDICTIONS_FILE, binary=True) as stream:  # first: it says whose the README is
        np.savez_compressed(stream, **rows)
    with files_aside(folder) as aside:
        save_trained(job.model, aside)
        save_tokenizer(job.tokenizer, aside)
        written = sorted(path for path in aside.rglob("*") if path.is_file())  # a tokenizer has folders, too
        write_manifest(aside, [path for path in written if path.name != "README.md"])
    record = replace(record, adapter_bytes=weight_bytes(folder))
    write_card(record, job.task, folder)
    draw_curves(record, job.task.main_metric, folder / "loss_curve.png")
    record.write(folder / RECORD_FILE)
    return record
