"""`propulsion bound`: the Johnson-Lindenstrauss bound at a model's own weights, and at random ones (theorem 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from propulsion.layers import PropulsionLayer
from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import OptionError
from propulsion_tools.inspection.figure_files import write_bytes
from propulsion_tools.records import to_json, write_atomically
from propulsion_tools.records.options import BoundOptions
from propulsion_tools.theory.commands.study import NUMBERS_FILE, Study
from propulsion_tools.theory.projection import (
    EPSILONS,
    Distortion,
    bound,
    distortion,
    frequency,
    layer_inputs,
    random_distortions,
)
from propulsion_tools.training.build import Job
from propulsion_tools.training.console import table
from propulsion_tools.training.notify import Notify

SHOWN = (0.2, 0.3)
VECTORS = 128
LEGEND = (
    "error: median of |(θ0 x)ᵀ(θ0 x') - xᵀx'|, |x| = 1; scaled: with θ0 times the factor that suits it best; then the "
    "shares of pairs that are off by so much there, and whether the bound holds there for every ε."
)


def measure_bound(options: BoundOptions, notify: Notify = print) -> tuple[dict[str, Any], Path]:
    """Hold the bound against the weights of every steered linear layer, and write numbers.json and bound.png.

    Args:
        options: What to look at.
        notify: Is told notes on the data.

    Returns:
        What is in numbers.json, and the folder.

    Raises:
        OptionError: An option is wrong, or the method does not steer layers.
        DataError: The data cannot be used, or has fewer samples than were asked for.
        GradientError: None of the targets is a linear layer.
    """
    if options.method != "propulsion":
        raise OptionError("The bound is a statement on the layers that the method propulsion steers.")
    study = Study.of(options, "bound", notify)
    job = study.job()
    _, readout = study.readout(job)
    inputs = layer_inputs(job.model, study.samples(job).rows, readout, steered_weights(job), VECTORS)
    layers = [
        distortion(name_in_base(name).removesuffix(".base_layer.weight"), weight, vectors)
        for name, (weight, vectors) in inputs.items()
    ]
    random = random_distortions(next(iter(inputs.values()))[1], options.seed)
    numbers = {"layers": list(map(facts, layers)), "random": list(map(facts, random))}
    from propulsion_tools.theory.projection_figure import draw_projection

    write_bytes(study.folder / "bound.png", draw_projection(random, layers, study.title("Inner products at θ0"), "png"))
    write_atomically(study.folder / NUMBERS_FILE, to_json(numbers))
    return numbers, study.folder


def steered_weights(job: Job) -> list[str]:
    """Names of the weights of the layers that a job steers."""
    return [
        f"{name}.base_layer.weight" for name, module in job.model.named_modules() if isinstance(module, PropulsionLayer)
    ]


def facts(item: Distortion) -> dict[str, Any]:
    """Median errors, and how often an error of ε is exceeded beside the bound."""
    shown = np.array(SHOWN)
    limits = bound(EPSILONS, item.width)
    return {
        "name": item.name,
        "width": item.width,
        "median_error": float(np.median(item.raw)),
        "median_error_scaled": float(np.median(item.scaled)),
        "epsilon": list(SHOWN),
        "bound": bound(shown, item.width).tolist(),
        "frequency": frequency(item.raw, shown).tolist(),
        "frequency_scaled": frequency(item.scaled, shown).tolist(),
        "holds": bool((frequency(item.raw, EPSILONS) <= limits).all()),
        "holds_scaled": bool((frequency(item.scaled, EPSILONS) <= limits).all()),
    }


def describe(numbers: dict[str, Any], folder: Path) -> list[object]:
    """The numbers as tables for people."""
    headings = ["", "d", "error", "scaled", *(f"≥ {value}" for value in SHOWN), "holds"]
    parts = []
    for title, key in (("The model's layers", "layers"), ("Random Gaussian weights", "random")):
        rows = [
            [
                item["name"].rpartition("layer.")[2].replace("attention.self.", ""),
                str(item["width"]),
                f"{item['median_error']:.3g}",
                f"{item['median_error_scaled']:.3f}",
                *(f"{value:.2f}" for value in item["frequency_scaled"]),
                "yes" if item["holds_scaled"] else "no",
            ]
            for item in numbers[key]
        ]
        parts.append(table(title, headings, rows, range(1, 7)))
    held = [sum(item[key] for item in numbers["layers"]) for key in ("holds", "holds_scaled")]
    return [
        *parts,
        LEGEND,
        f"Of {len(numbers['layers'])} layers the bound holds at {held[0]}, and at {held[1]} at their best scale.",
        f"Written to {folder}: numbers.json, bound.png",
    ]
