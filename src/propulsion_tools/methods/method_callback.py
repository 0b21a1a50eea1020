"""What a method has to do at each step of training, beside what the optimizer does."""

from __future__ import annotations

from torch import Tensor
from transformers import TrainerCallback


class MethodCallback(TrainerCallback):
    """A method's hooks into `Trainer`, with tensors that travel with the checkpoints.

    `on_optimizer_step` comes after the optimizer has moved the weights and before their gradients are cleared.
    """

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
