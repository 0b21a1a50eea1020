"""Train the head alone: the control that every other method has to beat."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.head_training import HEAD_LEARNING_RATE, train_the_head_alone
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec


def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Freeze the backbone, keep the head trainable.

    Raises:
        OptionError: The model has no head that could be trained.
    """
    if not train_the_head_alone(base_model, spec):
        raise OptionError(f"{type(base_model).__name__} has no head to train; choose another --method.")
    return base_model


METHOD = register(
    Method(
        name="head",
        description="the classifier head alone, the backbone frozen",
        build=build,
        learning_rate=lambda spec: HEAD_LEARNING_RATE,
        delta="ΔW = 0",
        place="trains the head alone",
    )
)
