"""`propulsion demo`: the head alone against Propulsion, on the same sentences, with real weights and no download."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from propulsion_tools.compare.process import train_in_process
from propulsion_tools.errors import RunsFailedError
from propulsion_tools.installation import program
from propulsion_tools.records import RunRecord, RunSpec, write_atomically
from propulsion_tools.records.options import DemoOptions
from propulsion_tools.tasks import get_task
from propulsion_tools.training.base_models import MINILM
from propulsion_tools.training.console import run_table, show
from propulsion_tools.training.next_commands import next_commands as commands_for

TASK = "docstrings"
METHODS = ("head", "propulsion")
TEXTS = (
    "Draw samples from a multivariate normal distribution with the given covariance.",
    "Apply a 2D convolution over an input signal composed of several input planes.",
    "Return the shortest path between two nodes of a graph.",
    "Fit the model with cross-validated choice of the regularization strength.",
)


def demo(options: DemoOptions) -> None:
    """Train both, print a table and what to do next.

    Raises:
        RunsFailedError: One of the runs failed.
    """
    folder = Path(options.output_dir)
    task = get_task(TASK)
    show(f"{task.description} (MiniLM, 22.7 M weights, on the CPU or whatever accelerator there is)", "")
    records = {method: _train(method, folder / method, options) for method in METHODS}
    show(run_table(records, task.main_metric))
    texts = folder / "texts.jsonl"
    write_atomically(texts, "".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    show("What to do next:", "", *(f"  {command}" for command in next_commands(folder, texts)), "")
    own = f"{program()} train --data_dir FOLDER"
    show(f"To answer over HTTP with what was trained: {program()} serve --adapters {shlex.quote(str(folder))}")
    show(f"And with data of your own, train and validation files in one folder: {own}")


def _train(method: str, folder: Path, options: DemoOptions) -> RunRecord:
    """Train in a process of its own, so that its peak memory is its own."""
    spec = RunSpec(
        task=TASK,
        method=method,
        model_name_or_path=MINILM,
        output_dir=str(folder),
        seed=options.seed,
        num_train_epochs=options.num_train_epochs,
        max_train_samples=options.max_train_samples,
        max_eval_samples=options.max_eval_samples,
        disable_tqdm=options.disable_tqdm,
        save_strategy="no",
        overwrite_output_dir=True,
    )
    if failure := train_in_process(spec, log=False):
        raise RunsFailedError(f"The run with --method {method} failed: {failure.error}")
    return RunRecord.read(folder)


def next_commands(folder: Path, texts: Path) -> list[str]:
    """Three commands that work when pasted."""
    return commands_for(folder / "propulsion", texts, f"{folder}/")
