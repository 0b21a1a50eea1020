"""What a user writes for Propulsion in another program's configuration, as a `PropulsionConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from peft import TaskType
from torch import nn

from propulsion.config import PropulsionConfig
from propulsion.errors import ConfigError, near_misses

OF_THE_PROGRAM = ("base_model_name_or_path", "inference_mode", "peft_version", "revision", "auto_mapping", "peft_type")
"""Fields that PEFT fills in."""


def config_of(options: Mapping[str, Any] | None, task_type: TaskType | str | None = None) -> PropulsionConfig:
    """A configuration from fields by name.

    Args:
        options: Fields of `PropulsionConfig`; None stands for none, so that the preset "all" is steered at degree 15.
        task_type: What the model is trained for, where the options do not say it.

    Raises:
        ConfigError: A field is unknown, or its value is wrong.
    """
    known = [field.name for field in fields(PropulsionConfig) if field.init and field.name not in OF_THE_PROGRAM]
    values = {"task_type": task_type, **(options or {})}
    for name in values:
        if name not in known:
            raise ConfigError(f"Propulsion has no option {name!r}.{near_misses(name, known)}")
    return PropulsionConfig(**values)


def task_type_of(model: nn.Module) -> TaskType:
    """What a model of transformers is trained for, by the name of its class; generation, if that does not say more."""
    name = type(model).__name__
    if "SequenceClassification" in name:
        return TaskType.SEQ_CLS
    if "TokenClassification" in name:
        return TaskType.TOKEN_CLS
    return TaskType.CAUSAL_LM
