"""The packages that an optimizer, a tracker or a metric needs, asked for before data and weights are read."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import SimpleNamespace

from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames, ParallelMode

from propulsion_tools.errors import OptionError, check_installed
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import Task

# Transformers does not list these among the trackers that are available, or not always; making one tells.
_UNLISTED = ("azure_ml", "flyte", "kubeflow")


def check_packages(spec: RunSpec, task: Task) -> None:
    """Refuse a run that would end where a package is first needed.

    Args:
        spec: Names the optimizer and the trackers.
        task: Names what it scores with.

    Raises:
        OptionError: The package of the optimizer or of a tracker is not installed, or there is no such tracker.
        MissingExtraError: A package that the task scores with is not installed.
    """
    for package in task.packages:
        check_installed(package, "train")
    _check_optimizer(spec.optim)
    for tracker in (spec.report_to,) if isinstance(spec.report_to, str) else spec.report_to:
        if tracker not in ("none", "all"):
            _check_tracker(tracker)


def _check_optimizer(name: str) -> None:
    # Real arguments would decide for the whole process, on being made, which device it computes on.
    defaults = {item.name: item.default for item in fields(TrainingArguments) if item.default is not MISSING}
    choice = {"optim": OptimizerNames(name), "parallel_mode": ParallelMode.NOT_PARALLEL}
    try:
        Trainer.get_optimizer_cls_and_kwargs(SimpleNamespace(**{**defaults, **choice}), nn.Linear(1, 1))
    except (ImportError, ValueError, RuntimeError) as error:
        raise OptionError(f"optim cannot be {name!r} here: {_first_line(error)}") from error


def _check_tracker(name: str) -> None:
    try:
        (callback,) = get_reporting_integration_callbacks(name)
        if name in _UNLISTED:
            callback()
    except (ImportError, ValueError, RuntimeError) as error:
        raise OptionError(f"report_to cannot be {name!r} here: {_first_line(error)}") from error
    if name not in (*_UNLISTED, *get_available_reporting_integrations()):
        raise OptionError(
            f"report_to {name!r} needs a package that is not installed: pip install {name.replace('_', '-')}."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
