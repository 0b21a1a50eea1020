"""A fresh head trains alone in the first steps of a run; the rest waits, and joins with a warm-up of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from propulsion_tools.methods.method_callback import waiting_steps

WAITS = "waits"
"""The key of an optimizer's group whose parameters wait."""


class HeadFirst(TrainerCallback):
    """Keeps parameters from training for a share of the steps.

    They ask for no gradient meanwhile: a backward ends where the head begins, and an optimizer passes them over.

    Args:
        model: What is trained.
        names: Of its parameters that wait.
        share: Of all steps; 0: nothing waits.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], share: float) -> None:
        self.model, self.names, self.share = model, names, share

    @property
    def waiting(self) -> list[nn.Parameter]:
        """The parameters; sharding puts others in the place of those that there were."""
        return [self.model.get_parameter(name) for name in self.names]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._set(state.global_step >= waiting_steps(self.share, state.max_steps))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == waiting_steps(self.share, state.max_steps):
            self._set(True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._set(True)

    def _set(self, trains: bool) -> None:
        for parameter in self.waiting:
            parameter.requires_grad_(trains)

    @contextlib.contextmanager
    def all_trainable(self) -> Iterator[None]:
        """As if nothing waited: what is saved is known by what is trained."""
        before = [parameter.requires_grad for parameter in self.waiting]
        self._set(True)
        try:
            yield
        finally:
            for parameter, trains in zip(self.waiting, before, strict=True):
                parameter.requires_grad_(trains)


def delay(scheduler: Any, args: TrainingArguments, steps: int, share: float) -> None:
    """Let the groups that wait go through the whole schedule, its warm-up too, in the steps that are left to them.

    A schedule that follows the score, and not the steps, is the same for all.

    Args:
        scheduler: Of the run.
        args: Name the schedule and its warm-up.
        steps: Of the run.
        share: Of them, in which the groups wait.
    """
    waiting = waiting_steps(share, steps)
    if not waiting or not isinstance(scheduler, LambdaLR):
        return
    left = steps - waiting
    rate = scheduler.optimizer.defaults["lr"]  # schedules make shares of it of the rates that they are told
    late = get_scheduler(
        args.lr_scheduler_type,
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate),
        num_warmup_steps=args.get_warmup_steps(left),
        num_training_steps=left,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    for index, group in enumerate(scheduler.optimizer.param_groups):
        if group.get(WAITS):
            scheduler.lr_lambdas[index] = _later(late.lr_lambdas[0], waiting)


def _later(schedule: Callable[[int], float], by: int) -> Callable[[int], float]:
    return lambda step: schedule(step - by) if step >= by else 0.0
