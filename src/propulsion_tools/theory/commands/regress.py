"""`propulsion regress`: the tangent kernel at the start of a finished run as a predictor beside its trained adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EvalPrediction

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import RunRecord
from propulsion_tools.records.options import RegressionOptions
from propulsion_tools.records.run_spec import REGRESS
from propulsion_tools.theory.alignment import Array, per_sample
from propulsion_tools.theory.commands.study import encode, num_labels, trained_names
from propulsion_tools.theory.gradients import Readout
from propulsion_tools.theory.kernel_regression import kernel_regression, one_hot
from propulsion_tools.theory.readout import check_readout, default_readout, make_readout
from propulsion_tools.theory.tangent_kernel import empirical_ntk
from propulsion_tools.training.build import Job, build
from propulsion_tools.training.console import metrics_table
from propulsion_tools.training.data import load_data
from propulsion_tools.training.device import device_of
from propulsion_tools.training.evaluate import restore
from propulsion_tools.training.moved_runs import located
from propulsion_tools.training.scoring import score
from propulsion_tools.training.trainer import make_trainer

Scores = dict[str, dict[str, float]]


def regress(adapter_dir: Path, options: RegressionOptions) -> dict[str, Any]:
    """Score the trained adapter and kernel regression on the same rows.

    The kernel is that of the model before training, with the head it started from. Only the run's own training rows are
    used. Beside the kernel of the method's vectors stand those of the head alone (linear probing) and of both.

    Args:
        adapter_dir: The output folder of `train`, of a classification or regression of texts.
        options: What to look at.

    Returns:
        Split → predictor → score by name, with the ridge chosen and the number of training samples.

    Raises:
        OptionError: There is no record, the output reads the label, or the run is no classification of texts.
        DataError: The data cannot be used, or there is nothing to score on.
        GradientError: The output depends on none of the method's parameters.
        NotFiniteError: The kernel is not finite.
    """
    check_readout(options.output)
    if options.output == "loss":
        raise OptionError("Predicting needs an output that does not read the label: choose difference, sum or classes.")
    record = RunRecord.read(adapter_dir)
    spec = located(record.spec, adapter_dir, options).overridden(REGRESS, options)
    job = build(spec, load_data(spec))
    if (labels := num_labels(job)) is None:
        raise OptionError("Kernel regression predicts the label of a text: pass a run of a classification of texts.")
    if not job.eval_splits:
        raise DataError("The data has no split beside train to predict.")
    kernels = _kernels(job, make_readout(options.output or default_readout(labels), labels))
    known = np.array(job.data.splits["train"]["label"], dtype=np.float64)
    targets = one_hot(known, labels) if job.data.label_names else known[:, None]
    scored = _trained_scores(adapter_dir, replace(record, spec=spec), job)
    ridges: dict[str, float] = {}
    for split, part in _slices(job).items():
        for name, kernel in kernels.items():
            inside, cross = kernel[: len(known), : len(known)], kernel[part, : len(known)]
            predictions, ridges[name] = kernel_regression(inside, cross, targets)
            prediction = EvalPrediction(predictions=predictions, label_ids=np.array(job.data.splits[split]["label"]))
            scored[split][name] = job.metrics(split)(prediction, compute_result=True)
    return {"training_samples": len(known), "ridge": ridges, "scores": scored}


def _kernels(job: Job, readout: Readout) -> dict[str, Array]:
    """The kernels over the training rows and then those of every other split, by what they are of."""
    device = device_of(job.spec)
    job.model.to(device).eval()
    rows = [row for split in ("train", *job.eval_splits) for row in encode(job, job.data.splits[split], device)]
    parts = {part: names for part, names in trained_names(job).items() if names}
    kernels = {part: per_sample(kernel) for part, kernel in empirical_ntk(job.model, rows, readout, parts).items()}
    titles = {"body": f"kernel of {job.spec.method}", "head": "kernel of the head"}
    named = {titles[part]: kernel for part, kernel in kernels.items()}
    if len(kernels) == 2:
        named[f"kernel of {job.spec.method} and head"] = kernels["body"] + kernels["head"]
    return named


def _slices(job: Job) -> dict[str, slice]:
    """Where the rows of each split beside train are in the kernels."""
    slices, start = {}, len(job.data.splits["train"])
    for split in job.eval_splits:
        slices[split] = slice(start, start + len(job.data.splits[split]))
        start = slices[split].stop
    return slices


def _trained_scores(adapter_dir: Path, record: RunRecord, job: Job) -> dict[str, Scores]:
    """What the trained adapter reaches on the same rows."""
    data = replace(job.data, splits={split: job.data.splits[split] for split in job.eval_splits})
    trained = restore(adapter_dir, record, data)
    trainer = make_trainer(trained, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    return {split: {"trained adapter": score(trainer, trained, split).metrics} for split in job.eval_splits}


def describe(result: dict[str, Any]) -> list[object]:
    """The scores as tables for people."""
    title = f"trained on {result['training_samples']:,} samples"
    return [metrics_table(metrics, f"{split}, {title}") for split, metrics in result["scores"].items()]
