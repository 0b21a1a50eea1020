"""Methods that PEFT provides: a configuration, the layers that it is for, and an error that helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peft import PeftConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from propulsion.errors import PropulsionError
from propulsion_tools.errors import OptionError, ToolsError
from propulsion_tools.methods.head_training import HEAD_LEARNING_RATE, modules_to_save
from propulsion_tools.methods.layer_names import target_names
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec
from propulsion_tools.upstream.peft_private import quiet_about_defaults

Derive = Callable[[dict[str, Any], PreTrainedModel, RunSpec], dict[str, Any]]


def peft_method(
    *,
    name: str,
    description: str,
    config_class: type[PeftConfig],
    learning_rate: float,
    defaults: Mapping[str, Any],
    derive: Derive,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    **fields: Any,
) -> Method:
    """Register a method of PEFT.

    Args:
        name: What the command line calls it.
        description: One line for `propulsion methods`.
        config_class: PEFT's configuration.
        learning_rate: The step size that suits it.
        defaults: The configuration's fields that differ from PEFT's defaults; `method_args` goes before them.
        derive: Makes of those, the base model and the spec what the configuration is called with, beside the task type
            and the modules to save.
        prepare: What is to be done with the wrapped model.
        **fields: Those of `Method`.
    """

    def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
        values = derive({**defaults, **(spec.method_args or {})}, base_model, spec)
        return prepare(wrapped(base_model, spec, task, config_class, values))

    return register(
        Method(
            name=name,
            description=description,
            build=build,
            learning_rate=lambda spec: learning_rate,
            head_learning_rate=HEAD_LEARNING_RATE,
            config_class=config_class,
            defaults=defaults,
            **fields,
        )
    )


def wrapped(
    base_model: PreTrainedModel,
    spec: RunSpec,
    task: HasTaskType,
    config_class: type[PeftConfig],
    values: Mapping[str, Any],
) -> nn.Module:
    """The base model wrapped by PEFT, which trains and saves the whole head.

    Raises:
        OptionError: PEFT refuses; says why.
    """
    heads = modules_to_save(base_model, spec.modules_to_save)
    try:
        with quiet_about_defaults():
            config = config_class(task_type=task.peft_task_type, modules_to_save=heads, **values)
            return get_peft_model(base_model, config)
    except (PropulsionError, ToolsError):
        raise
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OptionError(f"PEFT cannot build {spec.method} for a {type(base_model).__name__}: {reason}") from error


def on_targets(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """`values` with the spec's targets, the queries and values of the attention if it names none."""
    return {**values, "target_modules": target_names(base_model, spec)}
