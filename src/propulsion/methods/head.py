"""Train the head alone: the control that every other method has to beat."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from propulsion.errors import ConfigError
from propulsion.methods.heads import head_modules
from propulsion.methods.registry import HasTaskType, Method, register
from propulsion.records import RunSpec


def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Freeze the backbone, keep the head trainable.

    Raises:
        ConfigError: The model has no head that could be trained.
    """
    base_model.requires_grad_(False)
    names = [*head_modules(base_model), *(spec.modules_to_save or ())]
    if not names:
        raise ConfigError(f"{type(base_model).__name__} has no head to train; choose another --method.")
    for name in names:
        base_model.get_submodule(name).requires_grad_(True)
    return base_model


METHOD = register(Method("head", "the classifier head alone, the backbone frozen", build, lambda spec: 5e-3))
