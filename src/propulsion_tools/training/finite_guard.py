"""Training ends with a sentence, and not with nonsense, where a loss, a gradient or a gain is no longer finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from propulsion.layers import PropulsionLayer
from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import NotFiniteError
from propulsion_tools.training.checkpoints import last_checkpoint
from propulsion_tools.training.processes import holds_for_all
from propulsion_tools.training.sharding import local, whole_parameters


class FiniteGuard(TrainerCallback):
    """Stops before a gradient that is not finite is applied, and before weights that are not finite are kept.

    Args:
        mend: Goes back to where all was finite, if it can; then the run goes on.
    """

    def __init__(self, mend: Callable[[str], bool]) -> None:
        self.mend = mend

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.fp16:  # the scaler tries large scales first, and passes by a step whose gradients overflow
            return
        # Those of the optimizer are all that are trained; to go through the model takes as long as a small step.
        trained = (p for group in kwargs["optimizer"].param_groups for p in group["params"])
        gradients = [p.grad for p in trained if p.grad is not None]
        if not _all_finite(gradients, args.device) and not self.mend("a gradient was not finite"):
            raise not_finite("a gradient is no longer finite", kwargs["model"], args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_save or control.should_training_stop:
            self._check(kwargs["model"], args, state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:
            self._check(kwargs["model"], args, state)

    def _check(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
        is_finite = _all_finite(trained, args.device) and not gain_that_is_not_finite(model)
        if not is_finite and not self.mend("the trained weights were not finite"):
            raise not_finite("the trained weights are no longer finite", model, args, state)


def _all_finite(tensors: Iterable[Tensor], device: torch.device) -> bool:
    """Whether all values are, in all processes."""
    parts = [part for tensor in tensors if (part := local(tensor)).numel()]
    # The largest magnitude is finite exactly if all are, and cannot overflow as a sum of squares could.
    return holds_for_all(bool(torch.isfinite(get_total_norm(parts, norm_type=float("inf")))), device)


def _is_of_a_gain(name: str, parameter: nn.Parameter) -> bool:
    return ".propulsion_delta." in name


def gains(model: nn.Module) -> dict[str, Tensor]:
    """The pooled gain of every steered layer by its name."""
    with torch.no_grad(), whole_parameters(model, _is_of_a_gain):
        return {
            name_in_base(name): module.pooled_gain(adapter)
            for name, module in model.named_modules()
            if isinstance(module, PropulsionLayer)
            for adapter in module.active_adapters
            if adapter in module.propulsion_delta
        }


def gain_that_is_not_finite(model: nn.Module) -> str | None:
    """The name of the first layer whose gain left the finite range, if there is one."""
    return next((name for name, gain in gains(model).items() if not torch.isfinite(gain).all()), None)


def last_good(args: TrainingArguments) -> str:
    """The sentence of an error about what is left of a run."""
    checkpoint = last_checkpoint(Path(args.output_dir))
    return f"The last good checkpoint is {checkpoint}." if checkpoint else "No checkpoint had been written before."


def not_finite(what: str, model: nn.Module, args: TrainingArguments, state: TrainerState) -> NotFiniteError:
    """The error to raise, with the layer to blame, what was kept, and what to do."""
    step = state.global_step + 1
    if name := gain_that_is_not_finite(model):
        culprit = f" The gain of {name} left the finite range."
    elif largest := {name: gain.abs().max().item() for name, gain in gains(model).items()}:
        name = max(largest, key=lambda key: largest[key])
        culprit = f" Every gain is still finite; the largest is {largest[name]:.3g}, in {name}."
    else:
        culprit = ""
    return NotFiniteError(
        f"Training stopped at step {step}: {what}.{culprit} {last_good(args)} "
        f"Lower the learning rate (it is {args.learning_rate:g}) or the degree."
    )
