"""Small trained modules put into a frozen model by forward hooks, saved under the layer that they change."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.head_training import HEAD_LEARNING_RATE, train_the_head_alone
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec

Options = TypeVar("Options")


def attach(layer: nn.Module, name: str, piece: nn.Module) -> None:
    """Let `piece(input, output)` replace the output of a layer.

    Args:
        layer: Any module whose first argument and whose output are tensors.
        name: What the piece is called among the layer's children.
        piece: Computes in float32 from the input and the output of the layer; gives the new output.
    """
    layer.add_module(name, piece)
    layer.register_forward_hook(partial(_call, name))


def _call(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    # Looked up by name, not bound, so that a copy of the model calls its own piece.
    changed = layer.get_submodule(name)(inputs[0], output)
    return changed.to(output.dtype)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Input and output dimension of a linear layer."""
    if isinstance(layer, Conv1D):
        rows, columns = layer.weight.shape
        return rows, columns
    return layer.in_features, layer.out_features


def random_matrix(rows: int, columns: int) -> nn.Parameter:
    """A float32 matrix as `nn.Linear` starts it: uniform within ± 1/√columns."""
    bound = 1 / math.sqrt(columns)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound))


def zeros(*shape: int) -> nn.Parameter:
    """A float32 parameter of zeros."""
    return nn.Parameter(torch.zeros(*shape))


def hidden_size(model: PreTrainedModel) -> int:
    """The width of the residual stream."""
    config = model.config.get_text_config()
    return int(config.hidden_size)


def check_options(options: Any, method: str) -> None:
    """Refuse numbers that no method here can use.

    Raises:
        OptionError: An integer below 1, or a number that is not finite and above 0.
    """
    for name, annotation in get_type_hints(type(options)).items():
        value, kinds = getattr(options, name), get_args(annotation) or (annotation,)
        if value is None and NoneType in kinds:
            continue
        if int in kinds and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise OptionError(f"{name} of {method} must be an integer of at least 1, and not {value!r}.")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if float in kinds and (not is_number or not math.isfinite(value) or value <= 0):
            raise OptionError(f"{name} of {method} must be a number above 0, and not {value!r}.")


def attached_method(
    *,
    name: str,
    description: str,
    options_class: type[Options],
    attach_to: Callable[[PreTrainedModel, RunSpec, HasTaskType, Options], object],
    learning_rate: float,
    takes_targets: bool = False,
    **fields: Any,
) -> Method:
    """Register a method that freezes the backbone and puts modules of its own into it.

    Args:
        name: What the command line calls it.
        description: One line for `propulsion methods`.
        options_class: Its options, built from `method_args`.
        attach_to: Puts its modules into the model.
        learning_rate: The step size that suits it.
        takes_targets: Whether the spec may name target modules; else the method knows its places itself.
        **fields: Those of `Method`.
    """

    def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
        options = options_class(**(spec.method_args or {}))
        train_the_head_alone(base_model, spec)
        attach_to(base_model, spec, task, options)
        return base_model

    return register(
        Method(
            name=name,
            description=description,
            build=build,
            learning_rate=lambda spec: learning_rate,
            head_learning_rate=HEAD_LEARNING_RATE,
            config_class=options_class,
            place="" if takes_targets else "sits beside the sublayers of every block",
            **fields,
        )
    )
