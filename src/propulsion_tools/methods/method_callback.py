"""What a method has to do at each step of training, beside what the optimizer does."""

from __future__ import annotations

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def waiting_steps(share: float, steps: int) -> int:
    """How many of all steps of a run train the head alone."""
    return int(share * steps)


class KeepsTensors:
    """What a callback has to keep beside a checkpoint's weights, for the run to go on as if it had never stopped.

    Attributes:
        file: Where; at most one callback of a run writes to it.
        of_the_run: Whether it tells of the run, and not of the weights: a run that ends with the weights of an earlier
            checkpoint keeps its own.
    """

    file: str = "method_state.safetensors"
    of_the_run: bool = False

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned; nothing, where there was nothing to keep."""


class MethodCallback(TrainerCallback, KeepsTensors):
    """A method's hooks into `Trainer`, with tensors that travel with the checkpoints.

    Attributes:
        head_first: The share of the steps in which only the head trains; the hooks are not called in them.
    """

    head_first: float = 0.0

    def begin(self, steps: int) -> None:
        """Before the first of so many steps in which the method's weights train."""

    def before_step(self, step: int, steps: int) -> None:
        """Before the optimizer moves the weights for the `step`th time of `steps`, from 1."""

    def after_step(self, step: int, steps: int) -> None:
        """After it has, and before their gradients are cleared."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.begin(state.max_steps - waiting_steps(self.head_first, state.max_steps))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if count := self._count(state):
            self.before_step(*count)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if count := self._count(state):
            self.after_step(*count)

    def _count(self, state: TrainerState) -> tuple[int, int] | None:
        """The number of this step and of all steps, from where the method begins; None before."""
        waiting = waiting_steps(self.head_first, state.max_steps)
        return (state.global_step + 1 - waiting, state.max_steps - waiting) if state.global_step >= waiting else None
