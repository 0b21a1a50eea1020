"""The `Trainer` of transformers, with a learning rate for the head and a stop at what is not finite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from propulsion.layers import PropulsionLayer
from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import NotFiniteError
from propulsion_tools.methods.heads import is_head
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import Setup, Task
from propulsion_tools.training.checkpoints import last_checkpoint, write_spec
from propulsion_tools.training.trained_files import load_tensors, load_trained, save_tensors, save_trained
from propulsion_tools.upstream.transformers_private import OpenTrainer


class RunTrainer(OpenTrainer):
    """Trains any of our methods.

    Args:
        heads: Names of the base model's children that make up the head.
        head_learning_rate: Its step size; None: that of the rest.
        task: Says what is kept of an evaluated batch.
        setup: What its tensors depend on.
        loss_is_mean: The model's loss is the mean over its batch. Trainer takes any model whose forward has **kwargs
            for one that divides by the number of labels of all accumulated batches; the classifiers among them do not,
            and their gradients would grow with `gradient_accumulation_steps`.
        method_optimizer: The method's own optimizer, made for a model, a learning rate and a weight decay.
        **kwargs: Those of `Trainer`.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        *,
        heads: list[str],
        head_learning_rate: float | None,
        task: Task,
        setup: Setup,
        loss_is_mean: bool,
        method_optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.task, self.setup = task, setup
        if loss_is_mean:
            self.take_loss_as_mean()
        self.heads = heads
        self.head_learning_rate = head_learning_rate
        self.method_optimizer = method_optimizer
        for noisy in (ProgressCallback, PrinterCallback):
            self.remove_callback(noisy)
        if not self.args.disable_tqdm:
            self.add_callback(QuietProgress())
        self.add_callback(FiniteGuard())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One group for each pair of learning rate and weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            if self.method_optimizer is not None:
                made = self.method_optimizer(model, self.args.learning_rate, self.args.weight_decay)
                self.optimizer = self.with_head_group(made)
                return self.optimizer
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.parameter_groups(model), **kwargs)
        return self.optimizer

    def with_head_group(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The head's parameters in a group of their own, in an optimizer whose one group names its parameters."""
        (group,) = optimizer.param_groups
        of_head = [is_head(name, self.heads) for name in group["names"]]
        rows = {key: value for key, value in group.items() if isinstance(value, list)}
        head = {key: [item for item, apart in zip(row, of_head, strict=True) if apart] for key, row in rows.items()}
        rest = {key: [item for item, apart in zip(row, of_head, strict=True) if not apart] for key, row in rows.items()}
        group.update(rest)
        optimizer.add_param_group({**group, **head, "lr": self.head_learning_rate or self.args.learning_rate})
        return optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The trained parameters by learning rate and decay.

        Biases and norms do not decay, as in `Trainer`; the method's own vectors always do, wherever they sit, because
        for them zero is the identity.
        """
        decaying = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = self.head_learning_rate if is_head(name, self.heads) else None
                decays = name in decaying or "propulsion_" in name
                key = (rate or self.args.learning_rate, self.args.weight_decay if decays else 0.0)
                groups.setdefault(key, []).append(parameter)
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """A step of `Trainer`, refused if its loss is not finite; the optimizer has not moved then.

        Raises:
            NotFiniteError: Names the layer whose gain left the finite range, if one did.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise not_finite(f"the loss became {loss.item()}", self.model, self.args, self.state)
        return loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of `Trainer`, of what the task shows the model of a batch."""
        return super().compute_loss(model, self.task.arguments(self.model, inputs), *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Any, Any]:
        """The loss of a batch, what the task keeps of it, and what it is scored with.

        Raises:
            NotFiniteError: The loss is not finite.
        """
        batch = self.on_device(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, batch, return_outputs=True)
            if not torch.isfinite(loss):
                raise NotFiniteError(
                    "The model's output is not finite: nothing can be scored. Lower the learning rate."
                )
            if prediction_loss_only:
                return loss, None, None
            answers = self.task.answer(self.accelerator.unwrap_model(model), batch, self.setup, outputs)
        return loss, answers, batch[self.task.references]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """An evaluation of `Trainer` that leaves the random numbers of training alone.

        Its data loader draws one, so that a run resumed after an evaluation would differ from one resumed before it.
        """
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            return super().evaluate(*args, **kwargs)

    @property
    def method_callbacks(self) -> list[MethodCallback]:
        """The method's own hooks, at most one of which keeps tensors."""
        return [item for item in self.callback_handler.callbacks if isinstance(item, MethodCallback)]

    def write_weights(self, folder: Path) -> None:
        """What was trained, what the method keeps beside it, and the tokenizer."""
        save_trained(self.model, folder)
        save_tensors({key: value for hook in self.method_callbacks for key, value in hook.tensors().items()}, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))

    def read_weights(self, folder: Path) -> None:
        """What was trained, and what the method keeps beside it."""
        load_trained(self.model, folder)
        for hook in self.method_callbacks:
            hook.load_tensors(load_tensors(folder))


class FiniteGuard(TrainerCallback):
    """Stops before a gradient that is not finite is applied, and before weights that are not finite are kept."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if not _all_finite(gradients):
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
        if not _all_finite(trained) or gain_that_is_not_finite(model):
            raise not_finite("the trained weights are no longer finite", model, args, state)


class SpecKeeper(TrainerCallback):
    """Writes into each checkpoint what it is of."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.is_dir():
            write_spec(self.spec, checkpoint)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    # The largest magnitude is finite exactly if all are, and cannot overflow as a sum of squares could.
    return bool(torch.isfinite(get_total_norm(tensors, norm_type=float("inf"))))


def gains(model: nn.Module) -> dict[str, Tensor]:
    """The pooled gain of every steered layer by its name."""
    with torch.no_grad():
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
    checkpoint = last_checkpoint(Path(args.output_dir))
    kept = f"The last good checkpoint is {checkpoint}." if checkpoint else "No checkpoint had been written before."
    return NotFiniteError(
        f"Training stopped at step {step}: {what}.{culprit} {kept} "
        f"Lower the learning rate (it is {args.learning_rate:g}) or the degree."
    )


class QuietProgress(ProgressCallback):
    """One bar, with the latest loss beside it instead of a line for each log entry."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(os.path.basename(args.output_dir.rstrip("/")) or "train")
            self.training_bar.update(state.global_step)
            self.current_step = state.global_step

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_prediction_step(args, state, control, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.leave = False
            self.prediction_bar.set_description("evaluate", refresh=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
