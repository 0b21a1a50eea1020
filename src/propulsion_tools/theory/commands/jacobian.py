"""`propulsion jacobian`: does training stay where the model is linear in what is trained? (appendix C, figure 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.inspection.figure_files import write_bytes, write_npz
from propulsion_tools.inspection.places import place_of
from propulsion_tools.records import to_json, write_atomically
from propulsion_tools.records.options import JacobianOptions
from propulsion_tools.theory.commands.study import NUMBERS_FILE, Study, train_steps, trained_names
from propulsion_tools.theory.linearization import Departure, Linearization
from propulsion_tools.theory.tangent_kernel import jacobian
from propulsion_tools.training.console import table
from propulsion_tools.training.notify import Notify

MOMENTS = 12  # at which the outputs are looked at, evenly spaced


class Observer(TrainerCallback):
    """Compares the model with its expansion every few steps; it draws no random number."""

    def __init__(self, expansion: Linearization, every: int, last: int) -> None:
        self.expansion, self.every, self.last = expansion, every, last
        self.departures: list[Departure] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == self.last:
            self.departures.append(self.expansion.depart(kwargs["model"], state.global_step))


def measure_jacobian(options: JacobianOptions, notify: Notify = print) -> tuple[dict[str, Any], list[Departure], Path]:
    """Train for some steps, and write jacobian.npz, numbers.json and jacobian.png.

    Args:
        options: What to look at.
        notify: Is told notes on the data.

    Returns:
        What is in numbers.json, the departures from linearity, and the folder.

    Raises:
        OptionError: An option is wrong.
        DataError: The data cannot be used, or has fewer samples than were asked for.
        NotFiniteError: A derivative or an output is not finite.
    """
    study = Study.of(options, "jacobian", notify)
    job = study.job()
    samples = study.samples(job)
    output, readout = study.readout(job)
    parts = trained_names(job)
    names = parts["body"] or parts["head"]
    before = jacobian(job.model, samples.rows, readout, names).flatten(0, 1).double().numpy()
    expansion = Linearization(job.model, samples.rows, readout, [*parts["body"], *parts["head"]])
    observer = Observer(expansion, max(1, options.steps // MOMENTS), options.steps)
    train_steps(job, options.steps, study.folder, [observer])
    after = jacobian(job.model, samples.rows, readout, names).flatten(0, 1).double().numpy()
    numbers = {
        "output": output,
        "outputs": len(before) // len(samples.rows),
        "norm_before": float(np.linalg.norm(before)),
        "norm_after": float(np.linalg.norm(after)),
        "difference": float(np.linalg.norm(after - before)),
        "relative_difference": float(np.linalg.norm(after - before) / np.linalg.norm(before)),
        "cosine": float((before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after)),
        "linearization": [{**asdict(item), "relative": item.relative} for item in observer.departures],
    }
    _write(study, {"before": before, "after": after}, names, job.model, numbers, observer.departures)
    return numbers, observer.departures, study.folder


def _write(
    study: Study,
    arrays: dict[str, np.ndarray],
    names: Sequence[str],
    model: nn.Module,
    numbers: dict[str, Any],
    departures: Sequence[Departure],
) -> None:
    from propulsion_tools.theory.jacobian_figure import draw_jacobian

    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layers = [name_in_base(name).partition(".propulsion_")[0] for name in names]
    places = [place_of(layer).kind for layer, name in zip(layers, names, strict=True) for _ in range(sizes[name])]
    title = study.title("Jacobian", numbers["output"])
    write_npz(study.folder / "jacobian.npz", {**arrays, "layers": np.array(layers)})
    picture = draw_jacobian(arrays["before"], arrays["after"], departures, places, numbers["outputs"], title, "png")
    write_bytes(study.folder / "jacobian.png", picture)
    write_atomically(study.folder / NUMBERS_FILE, to_json(numbers))


def describe(numbers: dict[str, Any], departures: Sequence[Departure], folder: Path) -> list[object]:
    """The numbers as tables for people."""
    facts = [
        [name.replace("_", " "), f"{numbers[name]:.4g}"]
        for name in ("norm_before", "norm_after", "difference", "relative_difference", "cosine")
    ]
    lines = [
        [str(item.step), *map(_number, (item.moved, item.change, item.error, item.relative))] for item in departures
    ]
    headings = ["step", "|θ_t - θ_0|", "change", "error", "error / change"]
    return [
        table("The Jacobian of what is steered", ["", ""], facts, right=[1]),
        table("Outputs beside their first-order expansion at the start", headings, lines, right=range(5)),
        f"Written to {folder}: jacobian.npz, numbers.json, jacobian.png",
    ]


def _number(value: float) -> str:
    """Four digits; a dash for a share of nothing, before the model has moved."""
    return "–" if math.isnan(value) else f"{value:.4g}"
