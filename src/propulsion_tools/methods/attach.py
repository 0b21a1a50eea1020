"""Small trained modules put into a frozen model by forward hooks, saved under the layer that they change."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from propulsion_tools.errors import OptionError


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
    for item in fields(options):
        value, wanted = getattr(options, item.name), str(item.type)
        if value is None and "None" in wanted:
            continue
        if "int" in wanted and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise OptionError(f"{item.name} of {method} must be an integer of at least 1, and not {value!r}.")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if "float" in wanted and (not is_number or not math.isfinite(value) or value <= 0):
            raise OptionError(f"{item.name} of {method} must be a number above 0, and not {value!r}.")
