"""A trained model on a split: the task's metrics, what they took, and what was answered row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from propulsion_tools.tasks.majority import is_constant
from propulsion_tools.training.build import Job
from propulsion_tools.training.trainer import RunTrainer

# What `Trainer` adds to the metrics of a split.
_TIMINGS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class Scores(NamedTuple):
    """What scoring one split gave."""

    metrics: dict[str, float]
    seconds: float
    rows: Mapping[str, np.ndarray]
    """``labels`` and ``answers``, one per row of the split; nothing where a task does not keep them."""
    majority: dict[str, float]
    """What the most frequent answer would have reached; nothing where no answer is given twice."""


def score(trainer: RunTrainer, job: Job, split: str) -> Scores:
    """The task's metrics and the loss on a split; not computed twice for equal weights."""
    values = _last_evaluation(trainer, job, split)
    if values is None:
        trainer.compute_metrics = job.metrics(split)
        values = trainer.evaluate(job.encoded[split])
    named = {name.removeprefix("eval_"): value for name, value in values.items() if name.startswith("eval_")}
    metrics = {name: value for name, value in named.items() if name not in _TIMINGS}
    rows = trainer.compute_metrics.scored if trainer.compute_metrics else {}
    return Scores(metrics, named["runtime"], rows, job.task.majority(job.data.splits[split], job.setup))


def _last_evaluation(trainer: RunTrainer, job: Job, split: str) -> dict[str, float] | None:
    """What the evaluation after the last step gave, if it was of this split and the weights are still those."""
    last = trainer.last_evaluation
    if last is None or last.rows is not job.encoded[split] or trainer.args.load_best_model_at_end:
        return None
    return last.values if last.step == trainer.state.global_step else None


def remark(split: str, scores: Scores) -> str | None:
    """What to say where every row of a split got the same class, though not all have it."""
    answers, labels = scores.rows.get("answers"), scores.rows.get("labels")
    if answers is None or labels is None or not is_constant(labels, answers):
        return None
    return (
        f"All {len(answers):,} rows of {split} got the same answer: nothing was learned, or the training collapsed. "
        "Try more steps where the loss has hardly moved, and a third of the learning rate where it fell and rose again."
    )
