"""`propulsion ntk`: the tangent kernels of full fine-tuning and of a method, as numbers, arrays and figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from propulsion_tools.errors import OptionError, require
from propulsion_tools.inspection.figure_files import write_bytes, write_npz
from propulsion_tools.records import to_json, write_atomically
from propulsion_tools.records.options import NtkOptions
from propulsion_tools.theory.alignment import nearness, per_sample, spectrum
from propulsion_tools.theory.commands.study import NUMBERS_FILE, Samples, Study, train_steps, trained_names
from propulsion_tools.theory.kernel_figure import KernelSnapshot
from propulsion_tools.theory.tangent_kernel import empirical_ntk
from propulsion_tools.training.build import Job
from propulsion_tools.training.notify import Notify

START = "before training"
LEGEND = (
    "distance: |K - K'| / |K|, Frobenius; scale: a, for which |K - aK'| is smallest; scaled: the distance there; "
    "CKA: centred kernel alignment; corr.: of the entries above the diagonal.\n"
)
Kernels = dict[str, Tensor]
"""Part → kernel: "full body", "full head", "<method> body" and, where the method trains it, "<method> head"."""


def measure_kernels(options: NtkOptions, notify: Notify = print) -> tuple[dict[str, Any], Path]:
    """Compute both kernels, compare them, and write kernels.npz, numbers.json, kernels.png and kernels.html.

    Args:
        options: What to look at.
        notify: Is told notes on the data.

    Returns:
        What is in numbers.json, and the folder.

    Raises:
        OptionError: An option is wrong.
        DataError: The data cannot be used, or has fewer samples than were asked for.
        GradientError: An output depends on none of the method's parameters.
        NotFiniteError: A kernel is not finite.
    """
    require("plotly", "report")
    if options.method == "full":
        raise OptionError("The method full is what the others are compared with: choose another method.")
    study = Study.of(options, "ntk", notify)
    moments: dict[str, Kernels] = {}
    for method in (options.method, "full"):
        of_the_method = dict.fromkeys(("learning_rate", "adam_beta1", "target_modules"))
        job = study.job(**({} if method == options.method else {"method": method, **of_the_method}))
        if not trained_names(job)["body"]:
            raise OptionError(f"The method {method!r} trains the head alone: name one that also trains the body.")
        samples = study.samples(job)
        output, _ = study.readout(job)
        moments.setdefault(START, {}).update(_kernels(study, job, samples, method))
        if options.steps:
            train_steps(job, options.steps, study.folder)
            after = f"after {options.steps} step{'s' if options.steps > 1 else ''}"
            moments.setdefault(after, {}).update(_kernels(study, job, samples, method))
    numbers = {"output": output, **compare(moments, options.method)}
    _write(study, samples, moments, numbers, study.title("Tangent kernels", output))
    return numbers, study.folder


def _kernels(study: Study, job: Job, samples: Samples, method: str) -> Kernels:
    parts = {f"{method} {part}": names for part, names in trained_names(job).items() if names}
    _, readout = study.readout(job)
    return empirical_ntk(job.model, samples.rows, readout, parts, int(study.options.memory * 2**30))


def total(kernels: Kernels, method: str, parts: tuple[str, ...] = ("body", "head")) -> np.ndarray:
    """The (n, n) kernel of some parts of what a method trains."""
    chosen = [kernels[f"{method} {part}"] for part in parts if f"{method} {part}" in kernels]
    return per_sample(sum(chosen[1:], chosen[0]))


def compare(moments: dict[str, Kernels], method: str) -> dict[str, Any]:
    """All numbers: how near the kernels are at each moment, how far each went from its start, and their spectra.

    Args:
        moments: Kernels by moment, the start first.
        method: The method's name.
    """
    pairs = {
        f"all weights / {method}": (("full", ("body", "head")), (method, ("body",))),
        f"weights without head / {method}": (("full", ("body",)), (method, ("body",))),
        f"all weights / {method} and head": (("full", ("body", "head")), (method, ("body", "head"))),
    }
    start = moments[START]
    numbers: dict[str, Any] = {"nearness": {}, "drift": {}, "spectrum": {}}
    for moment, kernels in moments.items():
        numbers["nearness"][moment] = {
            name: asdict(nearness(total(kernels, *one), total(kernels, *other))) for name, (one, other) in pairs.items()
        }
        ends = {"all weights": ("full", ("body", "head")), method: (method, ("body",))}
        numbers["spectrum"][moment] = {name: asdict(spectrum(total(kernels, *end))) for name, end in ends.items()}
        if moment != START:
            numbers["drift"][moment] = {
                name: asdict(nearness(total(start, *end), total(kernels, *end))) for name, end in ends.items()
            }
    return numbers


def _write(study: Study, samples: Samples, moments: dict[str, Kernels], numbers: dict[str, Any], title: str) -> None:
    from propulsion_tools.theory.kernel_html import kernels_page
    from propulsion_tools.theory.kernel_image import draw_kernels

    method, folder = study.spec.method, study.folder
    arrays = {
        f"{moment}: {part}": kernel.numpy() for moment, kernels in moments.items() for part, kernel in kernels.items()
    }
    write_npz(folder / "kernels.npz", {**arrays, "labels": np.array(samples.labels), "index": np.array(samples.index)})
    snapshots = [
        KernelSnapshot(moment, total(kernels, "full"), total(kernels, method, ("body",)))
        for moment, kernels in moments.items()
    ]
    write_bytes(folder / "kernels.png", draw_kernels(snapshots, method, samples.labels, title, "png"))
    named = [f"{label}: {text}" for label, text in zip(samples.labels, samples.texts, strict=True)]
    write_bytes(folder / "kernels.html", kernels_page(snapshots, method, samples.labels, named, title))
    write_atomically(folder / NUMBERS_FILE, to_json(numbers))


def describe(numbers: dict[str, Any], folder: Path) -> list[object]:
    """The numbers as tables for people."""
    from propulsion_tools.training.console import table

    headings = ["", "distance", "scale", "scaled", "CKA", "corr."]
    drift = {f"From the start to {moment}": values for moment, values in numbers["drift"].items()}
    tables = [
        table(moment.capitalize(), headings, _lines(values), right=range(1, 6))
        for moment, values in {**numbers["nearness"], **drift}.items()
    ]
    spectra = [
        table(f"Eigenvalues {moment}", ["", "smallest", "largest", "effective rank"], _lines(values), right=range(1, 4))
        for moment, values in numbers["spectrum"].items()
    ]
    return [*tables, LEGEND, *spectra, f"Written to {folder}: kernels.npz, numbers.json, kernels.png, kernels.html"]


def _lines(numbers: dict[str, dict[str, float]]) -> list[list[str]]:
    return [[name, *(f"{value:.3g}" for value in values.values())] for name, values in numbers.items()]
