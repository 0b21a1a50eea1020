"""From the words of a user to a spec that leaves nothing open."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from propulsion_tools.errors import OptionError, check_name
from propulsion_tools.methods import get_method
from propulsion_tools.methods.registry import MOMENTUM
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import get_task
from propulsion_tools.training.going_on import default_task, run_folder
from propulsion_tools.training.packages import check_packages


def resolve(spec: RunSpec) -> RunSpec:
    """Fill in what the spec leaves to the task and to the method.

    Raises:
        UnknownNameError: There is no such task, method, optimizer or schedule; names the near misses.
        OptionError: A package of the optimizer is missing, or the method refuses a field.
        MissingExtraError: A package that the task scores with is missing.
    """
    task = default_task(spec)
    lengths = asdict((known := get_task(task)).lengths)
    lengths = {name: value for name, value in lengths.items() if getattr(spec, name) is None}
    method = get_method(spec.method)
    method.check(spec)
    _check_names(spec)
    check_packages(spec, known)
    spec = replace(spec, **method.fixed)
    rate = spec.learning_rate or method.learning_rate(spec)
    _check_schedule(spec.lr_scheduler_type, spec.lr_scheduler_kwargs, 1.0 if isinstance(rate, str) else rate)
    head_rate = spec.head_learning_rate or method.head_learning_rate
    dropout = spec.dropout if spec.dropout is not None else "model" if method.dropout is None else method.dropout
    spec = replace(spec, learning_rate=rate, head_learning_rate=head_rate, dropout=dropout, adam_beta1=_momentum(spec))
    return replace(spec, task=task, output_dir=run_folder(spec), **lengths)


def _momentum(spec: RunSpec) -> float:
    """The method's, where the optimizer is AdamW: β1 of Lion or of schedule-free AdamW is something else."""
    if spec.adam_beta1 is not None:
        return float(spec.adam_beta1)  # a file may say 0, which torch does not take for one of AdamW's βs
    return get_method(spec.method).adam_beta1 if spec.optim.removeprefix("paged_").startswith("adamw_") else MOMENTUM


def _check_names(spec: RunSpec) -> None:
    """What transformers would refuse, but only after data and weights are read."""
    for name, kinds in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        value, known = getattr(spec, name), [str(kind.value) for kind in kinds]
        check_name(name, value, known)


def _check_schedule(name: str, arguments: dict[str, Any] | None, rate: float) -> None:
    """Make one for a weight that nobody trains."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    try:
        get_scheduler(name, optimizer, 1, 2, arguments)
    except Exception as error:
        raise OptionError(
            f"The schedule {name} cannot be made with lr_scheduler_kwargs {arguments or {}}: {error}."
        ) from error
