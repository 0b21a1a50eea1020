"""`propulsion regress`: the tangent kernel at the start of a finished run as a predictor beside its trained adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from propulsion.analysis.alignment import Array, per_sample
from propulsion.analysis.ntk import empirical_ntk
from propulsion.analysis.readout import default_readout, make_readout
from propulsion.analysis.regression import kernel_regression, one_hot
from propulsion.errors import ConfigError, DataError
from propulsion.records import RunRecord
from propulsion.tasks import get_task
from propulsion.training.evaluate import restore
from propulsion.training.job import assemble, load_data, make_trainer, split_metrics
from propulsion.training.options import RegressionOptions
from propulsion.training.report import metrics_table
from propulsion.training.run import scores
from propulsion.training.study import encode, num_labels, trained_names

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
        ConfigError: There is no record, or the run is no classification or regression of texts.
        DataError: The data cannot be used, or there is nothing to score on.
        GradientError: The output depends on none of the method's parameters.
        NotFiniteError: The kernel is not finite.
    """
    record = RunRecord.read(adapter_dir)
    limit = options.max_eval_samples or record.spec.max_eval_samples
    spec = replace(record.spec, max_eval_samples=limit, disable_tqdm=options.disable_tqdm, use_cpu=options.use_cpu)
    data = load_data(spec)
    job = assemble(spec, get_task(str(spec.task)), data)
    labels = num_labels(job)
    if labels is None:
        raise ConfigError("Kernel regression predicts the label of a text: pass a run of a classification of texts.")
    if not job.eval_splits:
        raise DataError("The data has no split beside train to predict.")
    device = torch.device("cuda" if torch.cuda.is_available() and not spec.use_cpu else "cpu")
    job.model.to(device).eval()
    splits = ["train", *job.eval_splits]
    rows = [row for split in splits for row in encode(job, data.splits[split], device)]
    parts = {part: names for part, names in trained_names(job).items() if names}
    readout = make_readout(options.output or default_readout(labels), labels)
    kernels = {part: per_sample(kernel) for part, kernel in empirical_ntk(job.model, rows, readout, parts).items()}
    found: dict[str, Any] = {"training_samples": len(data.splits["train"]), "ridge": {}, "scores": {}}
    trained = restore(adapter_dir, replace(record, spec=spec), replace(data, splits=_without_train(data.splits)))
    trainer = make_trainer(trained, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    known = np.array(data.splits["train"]["label"], dtype=np.float64)
    targets = one_hot(known, labels) if data.label_names else known[:, None]
    start = len(known)
    for split in job.eval_splits:
        stop = start + len(data.splits[split])
        result: Scores = {"trained adapter": scores(trainer, trained, split).metrics}
        for name, kernel in _combinations(kernels, spec.method).items():
            inside = kernel[: len(known), : len(known)]
            predictions, ridge = kernel_regression(inside, kernel[start:stop, : len(known)], targets)
            truth = np.array(data.splits[split]["label"])
            metrics = split_metrics(trained, split)
            result[name] = metrics(EvalPrediction(predictions=predictions, label_ids=truth), compute_result=True)
            found["ridge"][name] = ridge
        found["scores"][split] = result
        start = stop
    return found


def _without_train(splits: Any) -> dict[str, Any]:
    return {name: rows for name, rows in splits.items() if name != "train"}


def _combinations(kernels: dict[str, Array], method: str) -> dict[str, Array]:
    """The kernels by what they are of."""
    named = {f"kernel of {method}": kernels.get("body"), "kernel of the head": kernels.get("head")}
    if len(kernels) == 2:
        named[f"kernel of {method} and head"] = kernels["body"] + kernels["head"]
    return {name: kernel for name, kernel in named.items() if kernel is not None}


def describe(found: dict[str, Any]) -> list[object]:
    """The scores as tables for people."""
    title = f"trained on {found['training_samples']:,} samples"
    return [metrics_table(result, f"{split}, {title}") for split, result in found["scores"].items()]
