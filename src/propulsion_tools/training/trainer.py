"""The `Trainer` of transformers, with a learning rate for the head, and the checkpoints and the bar of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import NotFiniteError, OptionError
from propulsion_tools.methods import get_method
from propulsion_tools.methods.head_training import is_head
from propulsion_tools.methods.method_callback import KeepsTensors
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import Setup, Task
from propulsion_tools.tasks.base import Metrics
from propulsion_tools.training.arguments import training_arguments
from propulsion_tools.training.build import Job
from propulsion_tools.training.checkpoints import prune_checkpoints, seal_checkpoint
from propulsion_tools.training.collapse import CollapseWatch
from propulsion_tools.training.finite_guard import FiniteGuard, not_finite
from propulsion_tools.training.fresh_head import loss_of_guessing
from propulsion_tools.training.head_first import WAITS, HeadFirst, delay
from propulsion_tools.training.manifest import begin
from propulsion_tools.training.measure import StepClock
from propulsion_tools.training.processes import holds_for_all, mean_over_processes, sum_over_processes
from propulsion_tools.training.sharding import (
    is_trained,
    sharded_state,
    takes_whole_values,
    whole,
    whole_parameters,
    whole_state,
)
from propulsion_tools.training.shared_batches import first_rows, items, real_rows, rows_of
from propulsion_tools.training.trained_files import (
    load_tensors,
    load_trained,
    save_tensors,
    save_tokenizer,
    save_trained,
)
from propulsion_tools.upstream.transformers_private import OpenTrainer


def make_trainer(job: Job, **overrides: Any) -> RunTrainer:
    """The trainer of a job; it has seeded once more, so that training does not depend on how the model was built.

    Args:
        job: What to train or evaluate.
        **overrides: Fields of `TrainingArguments` that replace the spec's.
    """
    spec, method = job.spec, get_method(job.spec.method)
    watched = next(iter(job.eval_splits), None)
    adapter, waiting = _adapter(job)
    share = spec.head_first if waiting else 0.0
    hooks = method.callbacks(job.model, spec)
    for hook in hooks:
        hook.head_first = share
    watched_too = [] if hooks else adapter  # hooks change more than what is trained: there is no way back to the start
    callbacks = [StepClock(), *hooks]
    if spec.early_stopping_patience and watched and spec.eval_strategy != "no":
        callbacks.append(EarlyStoppingCallback(spec.early_stopping_patience))
    return RunTrainer(
        spec=spec,
        heads=job.heads,
        head_learning_rate=spec.head_learning_rate,
        head_first=HeadFirst(job.model, waiting, share),
        collapse_watch=CollapseWatch(job.model, spec.on_collapse, loss_of_guessing(job), watched_too),
        method_optimizer=method.optimizer,
        task=job.task,
        setup=job.setup,
        loss_is_mean=job.kind.loss_is_mean,
        model=job.model,
        args=training_arguments(job, **overrides),
        data_collator=job.task.collator(job.setup),
        train_dataset=job.encoded.get("train"),
        eval_dataset=job.encoded[watched] if watched else None,
        processing_class=job.tokenizer,
        compute_metrics=job.metrics(watched) if watched else None,
        callbacks=callbacks,
    )


def _adapter(job: Job) -> tuple[list[str], list[str]]:
    """The trained parameters that are not fresh, and those of them that wait for what is: none, where nothing is."""
    fresh = tuple(f"{name}." for name in job.fresh)
    trained = [name for name, parameter in job.model.named_parameters() if parameter.requires_grad]
    adapter = [name for name in trained if not name_in_base(name).startswith(fresh)]
    return adapter, adapter if len(adapter) < len(trained) else []


class Evaluation(NamedTuple):
    """What was scored, after which step, and what came of it."""

    rows: Any
    step: int
    values: dict[str, float]


class RunTrainer(OpenTrainer):
    """Trains any of our methods.

    Args:
        spec: Is kept in each checkpoint.
        heads: Names of the base model's children that make up the head.
        head_learning_rate: Its step size; None: that of the rest.
        head_first: Keeps the rest waiting for it; None: nothing waits.
        collapse_watch: Sees a collapse; None: nobody looks.
        task: Says what is kept of an evaluated batch.
        setup: What its tensors depend on.
        loss_is_mean: The model's loss is the mean over its batch. Trainer takes any model whose forward has **kwargs
            for one that divides by the number of labels of all accumulated batches; the classifiers among them do not,
            and their gradients would grow with `gradient_accumulation_steps`.
        method_optimizer: The method's own optimizer, made for a model, a learning rate and a weight decay.
        **kwargs: Those of `Trainer`.

    Attributes:
        after_backward: Is called after the backward of each batch, which may have to be brought to its end.
        last_evaluation: The last of this process; `compute_metrics` holds what was answered in it.
    """

    optimizer: torch.optim.Optimizer | None
    compute_metrics: Metrics | None
    model: Any

    def __init__(
        self,
        *,
        spec: RunSpec,
        heads: list[str],
        head_learning_rate: float | None,
        head_first: HeadFirst | None = None,
        collapse_watch: CollapseWatch | None = None,
        task: Task,
        setup: Setup,
        loss_is_mean: bool,
        method_optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise OptionError(
                "FSDP of version 1 is not supported: set fsdp_version to 2 in accelerate's configuration."
            )
        self.task, self.setup = task, setup
        self.loss_is_mean, self.counted = loss_is_mean, list[int]()
        if loss_is_mean:
            self.take_loss_as_mean()
        self.spec, self.heads = spec, heads
        self.head_learning_rate = head_learning_rate
        self.head_first = head_first or HeadFirst(self.model, [], 0.0)
        self.collapse_watch = collapse_watch or CollapseWatch(self.model, "ignore", None)
        if self.is_deepspeed_enabled:
            self.collapse_watch.forgo_copies()
        self.method_optimizer = method_optimizer
        self._operations_of_a_token: int | None = None
        self.after_backward: Callable[[], None] = lambda: None
        self.last_evaluation: Evaluation | None = None
        for noisy in (ProgressCallback, PrinterCallback):
            self.remove_callback(noisy)
        if not self.args.disable_tqdm:
            self.add_callback(QuietProgress())
        for callback in (self.head_first, self.collapse_watch, FiniteGuard(self.mend)):
            self.add_callback(callback)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One group for each pair of learning rate and weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            if self.method_optimizer is not None:
                optimizer = self.method_optimizer(model, self.args.learning_rate, self.args.weight_decay)
                self.optimizer = self.with_head_group(optimizer)
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
        group[WAITS] = True
        return optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The trained parameters by learning rate and decay.

        Biases and norms do not decay, as in `Trainer`; the method's own vectors always do, wherever they sit, because
        for them zero is the identity.
        """
        decaying = set(self.get_decay_parameter_names(model))
        waiting = {id(parameter) for parameter in self.head_first.waiting}
        groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = self.head_learning_rate if is_head(name, self.heads) else None
                decays = name in decaying or "propulsion_" in name
                key = (
                    rate or self.args.learning_rate,
                    self.args.weight_decay if decays else 0.0,
                    id(parameter) in waiting,
                )
                groups.setdefault(key, []).append(parameter)
        return [
            {"params": params, "lr": rate, "weight_decay": decay, WAITS: waits}
            for (rate, decay, waits), params in groups.items()
        ]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of `Trainer`, begun later for what waits for the head."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        delay(scheduler, self.args, num_training_steps, self.head_first.share)
        return scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, without rows that were repeated to fill the last, and how many items they have.

        Where the model's loss is a mean, the items of all processes are counted here, for `compute_loss`. A process
        that has no row of its own keeps one, which counts for nothing, because all of them have to take part.
        """
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.loss_is_mean or not batches or len(batches) == self.args.world_size == 1:
            return batches, count  # the mean of the one batch is that of the step
        rows = real = rows_of(batches[-1])
        if self.args.world_size > 1 and self.accelerator.gradient_state.end_of_dataloader:
            # Not as accelerate counts it, which does not know it in an epoch that is gone on with.
            last = len(self.train_dataset) % (self.args.train_batch_size * self.args.world_size)
            real = real_rows(last, rows, self.args.process_index)
        batches[-1] = first_rows(batches[-1], max(real, 1)) if real < rows else batches[-1]
        self.counted = [items(batch) for batch in batches[:-1]] + [items(batches[-1]) if real else 0]
        total = sum_over_processes(float(sum(self.counted)), self.args.device)
        return batches, torch.tensor(max(total, 1.0), device=device)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """A step of `Trainer`, undone or refused if its loss is not finite; the optimizer has not moved then.

        Raises:
            NotFiniteError: Names the layer whose gain left the finite range, if one did.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.after_backward()
        # That of all processes: what one of them undoes, all of them have to.
        mean = mean_over_processes(loss.item(), self.args.device)
        if not math.isfinite(mean):
            if not self.mend(f"the loss became {mean}"):
                raise not_finite(f"the loss became {mean}", self.model, self.args, self.state)
            return torch.zeros_like(loss)
        self.collapse_watch.add(mean)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As in `Trainer`, which goes through the whole model for each batch to count its parameters anew."""
        main = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        if not isinstance(main, Tensor) or not main.numel():
            return super().floating_point_ops(inputs)
        if self._operations_of_a_token is None:
            self._operations_of_a_token = super().floating_point_ops(inputs) // main.numel()
        return self._operations_of_a_token * main.numel()

    def mend(self, reason: str) -> bool:
        """Go back to the last good weights, if there are some and it was not done too often."""
        watch = self.collapse_watch
        if not watch.can_go_back():
            return False
        watch.collapsed(reason, self.args, self.state, self.optimizer, self.lr_scheduler)
        return True

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of `Trainer`, of what the task shows the model of a batch.

        In training, a loss that is a mean is weighed by its part of the step: `Trainer` averages over processes and
        accumulated batches, which have different numbers of labels.
        """
        computed = super().compute_loss(model, self.task.arguments(self.model, inputs), *args, **kwargs)
        if not self.counted or not self.model.training:
            return computed
        share = self.counted.pop(0) / kwargs["num_items_in_batch"] * self.args.world_size
        return computed * share * self.current_gradient_accumulation_steps

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
            if (own := self.own_rows(batch)) is not None:  # in all processes: with sharded weights, all take part
                loss = self.compute_loss(model, first_rows(batch, own))
            if not holds_for_all(bool(torch.isfinite(loss)), self.args.device):
                raise NotFiniteError(
                    "The model's output is not finite: nothing can be scored. Lower the learning rate."
                )
            if prediction_loss_only:
                return loss, None, None
            answers = self.task.answer(self.accelerator.unwrap_model(model), batch, self.setup, outputs)
        return loss, answers, batch[self.task.references]

    def shard_for_scoring(self) -> None:
        """Spread the weights over the processes under FSDP2, which `Trainer` only does with an optimizer."""
        if self.is_fsdp_enabled:
            self.model, self.optimizer = self.accelerator.prepare(self.model, self.create_optimizer())

    def own_rows(self, batch: dict[str, Any]) -> int | None:
        """How many rows of a batch to score count here, at least one; None: it has no repeated ones anywhere."""
        state, rows = self.accelerator.gradient_state, rows_of(batch)
        repeats = state.end_of_dataloader and 0 < state.remainder < rows * self.args.world_size
        if self.args.world_size == 1 or not repeats:
            return None
        return max(real_rows(state.remainder, rows, self.args.process_index), 1)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """An evaluation of `Trainer` that leaves the random numbers of training alone, and is kept as the last.

        Its data loader draws one, so that a run resumed after an evaluation would differ from one resumed before it.
        """
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            values: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        self.last_evaluation = Evaluation(rows, self.state.global_step, values)
        return values

    @property
    def step_clock(self) -> StepClock:
        """What timed the steps."""
        return next(item for item in self.callback_handler.callbacks if isinstance(item, StepClock))

    @property
    def tensor_keepers(self) -> list[KeepsTensors]:
        """The hooks that keep tensors beside a checkpoint's weights."""
        return [item for item in self.callback_handler.callbacks if isinstance(item, KeepsTensors)]

    def write_weights(self, folder: Path) -> None:
        """What was trained, what the method keeps beside it, and the tokenizer: by the first of all processes."""
        kept = [
            (hook.file, {name: whole(tensor) for name, tensor in hook.tensors().items()})
            for hook in self.tensor_keepers
        ]
        with self.head_first.all_trainable(), whole_parameters(self.model, is_trained):
            if not self.args.should_save:
                return
            save_trained(self.model, folder)
        for file, tensors in kept:
            save_tensors(tensors, folder / file)
        if self.processing_class is not None:
            save_tokenizer(self.processing_class, folder)

    @contextmanager
    def reading(self, checkpoint: str | None) -> Iterator[None]:
        """Explains what `Trainer` cannot read; it reads with `weights_only`, so that no code in a file runs.

        Raises:
            OptionError: It cannot be read, or is of another run.
        """
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise OptionError(f"{checkpoint} cannot be gone on from ({said}): name another checkpoint.") from error

    def begin_checkpoint(self, folder: Path) -> None:
        """Remove what is there, which a kill left, or a run that this one goes on from at an earlier step."""
        begin(folder)

    def end_checkpoint(self, folder: Path) -> None:
        """Say what the checkpoint is of, and that it is whole; only now those before it may go."""
        seal_checkpoint(self.spec, folder, self.most_checkpoints, self.state.best_model_checkpoint)

    def take_up(self, folder: Path) -> None:
        """Be where a run was at its end; what it was about to remove then is removed now."""
        self.shard_for_scoring()
        super().take_up(folder)
        is_own = folder.resolve().parent == Path(self.args.output_dir).resolve()
        if self.args.should_save and is_own:  # not those of another run, which it may have been told to go on from
            prune_checkpoints(folder, self.most_checkpoints, self.state.best_model_checkpoint)

    def whole_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state as one process would have it."""
        return whole_state(state)

    def sharded_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """One process's, in parts where the parameters are."""
        assert self.optimizer is not None
        return sharded_state(state, self.optimizer)

    def read_weights(self, folder: Path) -> None:
        """What was trained, and what the method keeps beside it."""
        with self.head_first.all_trainable(), takes_whole_values(self.model):
            load_trained(self.model, folder)
        self._read_kept(folder, of_the_run=False)

    def read_run(self, folder: Path) -> None:
        """What was seen of the run until then."""
        self._read_kept(folder, of_the_run=True)

    def _read_kept(self, folder: Path, of_the_run: bool) -> None:
        for hook in self.tensor_keepers:
            if hook.of_the_run == of_the_run:
                hook.load_tensors(load_tensors(folder / hook.file))


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
