"""How a command goes on that was interrupted or met a full disk, by what it has left. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from propulsion_tools.records import RunSpec, model_slug
from propulsion_tools.records.options import PredictOptions
from propulsion_tools.training.checkpoints import last_checkpoint

SAME_COMMAND = "the same command goes on"


def default_task(spec: RunSpec) -> str:
    """The task of a run that names none."""
    return spec.task or ("text-classification" if spec.data_dir or spec.dataset_name else "docstrings")


def run_folder(spec: RunSpec) -> str:
    """Where a run goes that may not have named its folder."""
    name = f"{default_task(spec)}-{spec.method}-{model_slug(spec.model_name_or_path)}-seed{spec.seed}"
    return spec.output_dir or f"runs/{name}"


def after_train(spec: RunSpec) -> str:
    """From the last checkpoint, if there is one."""
    if spec.smoke or last_checkpoint(Path(run_folder(spec))) is None:
        return "there is no checkpoint to go on from"
    return "go on with --resume_from_checkpoint true"


def after_predict(adapter_dir: str, options: PredictOptions) -> str:
    """With the answers that were kept beside the output, if there are any."""
    target = Path(options.output or "predictions")
    pattern = f"{target.name}.*.partial" if options.output else f"{target.name}.*.*.partial"
    return SAME_COMMAND if any(target.parent.glob(pattern)) else ""


def after_grid(name: str, options: object) -> str:
    """With the runs that are missing."""
    return SAME_COMMAND
