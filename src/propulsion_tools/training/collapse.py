"""A training that collapses is seen, said, and mended: back to the last good weights, and on at a third of the rate."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from propulsion_tools.errors import CollapseError
from propulsion_tools.methods.method_callback import KeepsTensors
from propulsion_tools.training.finite_guard import gains, last_good
from propulsion_tools.training.processes import sum_over_processes
from propulsion_tools.training.sharding import local, sharded_like, whole

WINDOW = 50
"""Steps over which a loss is averaged: `group_by_length` sorts the rows of so many, from long ones to short ones."""
LOOK_EVERY = 10
"""Steps between two looks at the gains."""
COPY_EVERY = 25
"""Steps between two copies of what is trained."""
COPIES = 2
"""Copies that are kept: the older one is from before the steps that led to a collapse."""
LEARNED, LOST = 0.9, 0.98
"""A run has learned below this share of the loss of guessing, and has lost it again above that one."""
ERRORS = 4
"""A loss is below another if it is so by more than this many standard errors of its mean."""
GONE = 0.05
"""Below this share of the adapter's first gradients, its gradients are gone: whatever goes in, the same comes out."""
LARGEST_GAIN = 30.0
FACTOR = 1 / 3
MOST_RECOVERIES = 3
MOST_BYTES = 32 * 2**20
"""Copies are kept of as much as this; where more is trained, a collapse is said and not mended."""

Copy = dict[str, Tensor]
_TEXT = "state"
_STATE = ("losses", "gradients", "loss_of_guessing", "best", "has_learned", "events")
_STEPS = ("copies", "start")
_NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
_RATES = ("lr", "initial_lr", "scheduled_lr")
"""Of an optimizer's groups; the rest is what it counts there, and what never changes."""


class CollapseWatch(TrainerCallback, KeepsTensors):
    """Watches the loss and the gains of a run, and keeps copies of what it trains and of its optimizer's state.

    Args:
        model: What is trained.
        action: recover, stop or ignore.
        loss_of_guessing: The loss of answering with the labels' shares or mean; None: that of the first steps.
        adapter: Names of what is trained and not fresh, whose gradients are watched too.
    """

    file = "collapse.safetensors"
    of_the_run = True

    def __init__(
        self, model: nn.Module, action: str, loss_of_guessing: float | None, adapter: Sequence[str] = ()
    ) -> None:
        self.action, self.loss_of_guessing = action, loss_of_guessing
        self.model, self.adapter = model, adapter
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.keeps_copies = action == "recover" and _bytes(self.trained().values()) <= MOST_BYTES
        self.copies: deque[tuple[int, Copy]] = deque(maxlen=COPIES)
        self.start: tuple[int, Copy] | None = None  # from before the adapter moved, as long as nothing is learned
        self.waits = False
        self.losses: list[float] = []
        self.gradients: list[float] = []  # of the first looks at the adapter, and of the last
        self.step_loss: float | None = 0.0
        self.best: float | None = None
        self.has_learned = False
        self.events: list[dict[str, Any]] = []

    def forgo_copies(self) -> None:
        """Say a collapse and do not mend it: DeepSpeed's own float32 weights would undo what is put back."""
        self.keeps_copies = False

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; sharding puts other parameters in the place of those that there were."""
        return {name: self.model.get_parameter(name) for name in self.names}

    def tensors(self) -> dict[str, Tensor]:
        if self.action == "ignore":
            return {}
        start = [] if self.start is None else [self.start]
        state = {name: getattr(self, name) for name in _STATE}
        state |= {name: [step for step, _ in kept] for name, kept in zip(_STEPS, (self.copies, start), strict=True)}
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        copies = dict([*start, *self.copies])
        return {_TEXT: text} | {
            f"{step}|{name}": tensor for step, copy in copies.items() for name, tensor in copy.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if _TEXT not in tensors:  # of a run that began before runs were watched
            return
        state = json.loads(bytes(tensors[_TEXT].tolist()))
        for name in _STATE:
            setattr(self, name, state.get(name, getattr(self, name)))
        if self.action == "recover" and not self.keeps_copies:
            return
        copies: dict[int, Copy] = {}
        for key in tensors.keys() - {_TEXT}:
            step, name = key.split("|", 1)
            copies.setdefault(int(step), {})[name] = tensors[key]
        of_copies, of_start = (state.get(name, usual) for name, usual in zip(_STEPS, (sorted(copies), ()), strict=True))
        self.copies = deque(((step, copies[step]) for step in of_copies), maxlen=COPIES)
        self.start = next(((step, copies[step]) for step in of_start), None)

    def add(self, loss: float) -> None:
        """Count in the loss of a batch, over all processes; those of a step add up to its own."""
        if self.step_loss is not None:
            self.step_loss += loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step_loss, self.waits = 0.0, self._waits()
        if self.keeps_copies and not self.copies:
            self.start = self._copy(state.global_step, kwargs["optimizer"])
            self.copies.append(self.start)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.action == "ignore" or state.global_step % LOOK_EVERY or not self._is_guessing():
            return
        norm = self._gradient(args.device)
        if norm is not None and math.isfinite(norm):
            looks = WINDOW // LOOK_EVERY
            self.gradients = [*self.gradients[:looks], *self.gradients[looks:][1 - looks :], norm]

    def _is_guessing(self) -> bool:
        """Whether the loss is that of guessing and never was clearly below; above it a head still finds its level."""
        mean, guessing = self._mean(), self.loss_of_guessing
        if self.has_learned or mean is None or guessing is None:
            return False
        return LEARNED <= mean / guessing <= 1 / LEARNED

    def _waits(self) -> bool:
        return any(not self.model.get_parameter(name).requires_grad for name in self.adapter[:1])

    def _gradient(self, device: torch.device) -> float | None:
        """The norm of the adapter's gradient, over all processes; None where it has none, as while it waits."""
        found = [p.grad for name in self.adapter if (p := self.model.get_parameter(name)).grad is not None]
        if not found:
            return None
        norm = get_total_norm([local(gradient) for gradient in found]).item()
        if not any(isinstance(gradient, DTensor) for gradient in found):
            return norm
        return math.sqrt(sum_over_processes(norm**2, device))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.step_loss is not None:
            self.losses = [*self.losses[1 - WINDOW :], self.step_loss]
        self.step_loss = 0.0
        waited, self.waits = self.waits, self._waits()
        if self.action == "ignore" or self._gave_up():
            return
        reason = self._lost() or (self._wide_gain(kwargs["model"]) if state.global_step % LOOK_EVERY == 0 else None)
        stuck = None if reason else self._stuck()
        if reason or stuck:
            how = kwargs["optimizer"], kwargs["lr_scheduler"]
            self.collapsed(reason or str(stuck), args, state, *how, from_start=bool(stuck))
            self.step_loss = 0.0
        elif self.keeps_copies and state.global_step % COPY_EVERY == 0 and self._is_good():
            self.copies.append(self._copy(state.global_step, kwargs["optimizer"]))
        if self.has_learned:
            self.start = None
        elif self.keeps_copies and waited and not self.waits:
            self.start = self._copy(state.global_step, kwargs["optimizer"])

    def _mean(self) -> float | None:
        return sum(self.losses) / WINDOW if len(self.losses) == WINDOW else None

    def _lost(self) -> str | None:
        """Whether what had been learned is lost, in words."""
        if (mean := self._mean()) is None:
            return None
        if self.loss_of_guessing is None:
            self.loss_of_guessing = mean
        if self.has_learned and mean > LOST * self.loss_of_guessing:
            return f"the loss rose from {self.best:.3g} to {mean:.3g}, that of guessing"
        if self.best is None or mean < self.best:
            self.best = mean
            below = mean + ERRORS * statistics.stdev(self.losses) / WINDOW**0.5
            self.has_learned = max(mean / LEARNED, below) < self.loss_of_guessing
        return None

    def _stuck(self) -> str | None:
        """Whether nothing was learned and nothing can be any more, in words."""
        looks = WINDOW // LOOK_EVERY
        if len(self.gradients) < 2 * looks or not self._is_guessing():
            return None
        first = sorted(self.gradients[:looks])[
            -2
        ]  # two looks are enough, if it dies at once, and one may be an outlier
        last = statistics.median(self.gradients[looks:])
        if last >= GONE * first:
            return None
        return f"nothing was learned, and the gradients fell from {first:.2g} to {last:.2g}"

    def _wide_gain(self, model: nn.Module) -> str | None:
        found = gains(model)
        if get_total_norm(found.values(), norm_type=float("inf")) <= LARGEST_GAIN:  # one operation, and none a layer
            return None
        for name, gain in found.items():
            largest = gain.abs().max().item()
            if not largest <= LARGEST_GAIN:
                return f"a gain of {name} reached {largest:.3g}"
        return None

    def _is_good(self) -> bool:
        """Whether what is trained may be gone back to; after a recovery that is not known before the window is full."""
        mean = self._mean()
        return self.best is None or (mean is not None and mean <= self.best + 0.1 * abs(self.best))

    def _copy(self, step: int, optimizer: torch.optim.Optimizer) -> tuple[int, Copy]:
        copy: Copy = {}
        for name, parameter in self.trained().items():
            copy[f"weight|{name}"] = _copied(parameter)
            for key, value in _values(optimizer.state.get(parameter, {})).items():
                copy[f"{key}|{name}"] = value
        for index, group in enumerate(optimizer.param_groups):
            for key, value in _values(group).items():
                if key not in _RATES:
                    copy[f"group {index}|{key}"] = value
        return step, copy

    def _gave_up(self) -> bool:
        """Whether a collapse could not be mended: then nobody looks any more."""
        return bool(self.events) and self.events[-1]["back_to"] is None

    def can_go_back(self) -> bool:
        """Whether there is a copy to go back to, and it was not done too often."""
        return bool(self.copies) and len(self.events) < MOST_RECOVERIES

    def collapsed(
        self,
        reason: str,
        args: TrainingArguments,
        state: TrainerState,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        from_start: bool = False,
    ) -> None:
        """Do what is to be done about a collapse.

        Args:
            reason: What was seen.
            args: Of the run.
            state: Of the run.
            optimizer: Its optimizer; the gradients are cleared where it goes back.
            scheduler: Its schedule.
            from_start: Nothing since the start is worth going back to.

        Raises:
            CollapseError: The run is to stop.
        """
        if self.action == "stop":
            kept = "No checkpoint is better." if from_start else last_good(args)
            raise CollapseError(
                f"Training collapsed at step {state.global_step}: {reason}. {kept} Lower the learning rate "
                f"(it was {args.learning_rate:g})."
            )
        event = {"step": state.global_step, "reason": reason, "back_to": None, "factor": 1.0}
        if self.can_go_back() and (copied := self.start if from_start else self.copies[0]):
            step, copy = copied
            event |= {"back_to": step, "factor": FACTOR}
            self._go_back(step, copy, optimizer)
            slow_down(optimizer, scheduler)
        self.events.append(event)
        self.losses, self.step_loss = [], None  # a step that was undone has no loss
        self.gradients = self.gradients[: WINDOW // LOOK_EVERY]

    def _go_back(self, step: int, copy: Copy, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for name, parameter in self.trained().items():
                parameter.copy_(sharded_like(copy[f"weight|{name}"], parameter))
                parameter.grad = None
                state = optimizer.state.get(parameter, {})
                then = {key: copy[of] for key in state if (of := f"{key}|{name}") in copy}
                if any(value is not None and key not in then for key, value in state.items()):
                    optimizer.state.pop(parameter)  # it came later, and is made anew at values of its own
                    continue
                for key, value in then.items():
                    _restore(state, key, value)
            for index, group in enumerate(optimizer.param_groups):
                for key in list(group):
                    if (then_at := copy.get(f"group {index}|{key}")) is not None:
                        _restore(group, key, then_at)
        self.copies = deque([(step, copy)], maxlen=COPIES)


def _copied(tensor: Tensor) -> Tensor:
    """In memory of its own, whole, so that a run may go on in another number of processes."""
    return whole(tensor.detach()).clone()


def _values(state: Mapping[str, Any]) -> Copy:
    """What there is of numbers and tensors, copied."""
    return {
        key: _copied(value) if isinstance(value, Tensor) else torch.tensor(value, dtype=_NUMBERS[type(value)])
        for key, value in state.items()
        if isinstance(value, Tensor) or type(value) in _NUMBERS
    }


def _restore(state: dict[str, Any], key: str, then: Tensor) -> None:
    """A value of an optimizer's state as it was."""
    now = state[key]
    if isinstance(now, Tensor):
        now.copy_(sharded_like(then, now))
    elif now is None:
        state[key] = then.clone()
    else:
        state[key] = type(now)(then.item())


def slow_down(optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """A third of every rate from here on; the schedule keeps it, and so do checkpoints."""
    inner = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    if hasattr(inner, "base_lrs"):
        inner.base_lrs = [rate * FACTOR for rate in inner.base_lrs]
    for group in optimizer.param_groups:
        group["lr"] *= FACTOR
        if "initial_lr" in group:
            group["initial_lr"] *= FACTOR


def in_words(events: Iterable[dict[str, Any]]) -> list[str]:
    """A sentence for each collapse of a run."""
    said = []
    for event in events:
        then = "there was nothing to go back to, and it went on as it was: lower the learning rate"
        if event["back_to"] is not None:
            then = f"it went back to step {event['back_to']}, and on at a third of the rate"
        said.append(f"The training collapsed at step {event['step']} ({event['reason']}): {then}.")
    return said


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
