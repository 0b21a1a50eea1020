"""Batches whose rows each have an adapter of their own (`adapter_names` in forward and generate)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from propulsion.errors import AdapterNameError, LayerError, near_misses

BASE_MODEL = "__base__"  # PEFT's name for a row without adapter


def check_adapter_names(adapter_names: Any, known: Sequence[str], inputs: Sequence[Any]) -> None:
    """Refuse names that fit neither the adapters nor the batch.

    Args:
        adapter_names: What the caller gave.
        known: The adapters that are loaded.
        inputs: The arguments of the forward pass; the first tensor among them gives the size of the batch.

    Raises:
        AdapterNameError: Names what is wrong.
    """
    if isinstance(adapter_names, str) or not all(isinstance(name, str) for name in adapter_names):
        raise AdapterNameError(f"adapter_names must be a list with one name for each row, not {adapter_names!r}.")
    unknown = sorted(set(adapter_names) - set(known) - {BASE_MODEL})
    if unknown:
        raise AdapterNameError(
            f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. Loaded are {', '.join(known)} and "
            f"{BASE_MODEL!r} for none.{near_misses(unknown[0], known)}"
        )
    batch = next((len(value) for value in inputs if isinstance(value, Tensor) and value.dim()), len(adapter_names))
    if batch != len(adapter_names):
        raise AdapterNameError(
            f"Length of `adapter_names` should be the same as the number of inputs, but got {len(adapter_names)} and "
            f"{batch} respectively."
        )


@contextmanager
def steering_each_row(model: nn.Module, adapter_names: Sequence[str]) -> Iterator[None]:
    """Let every layer of a model steer each row of the batch by the adapter of its name.

    Args:
        model: The model with its adapters.
        adapter_names: One name for each row.
    """
    handles = []
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            hook = partial(_pass_adapter_names, adapter_names=list(adapter_names))
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        elif isinstance(module, ModulesToSaveWrapper):
            hook = partial(_forward_each_row, adapter_names=list(adapter_names))
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def names_of_rows(adapter_names: Sequence[str], output: Tensor) -> list[str]:
    """The adapter of each row of a layer's output.

    Beam search and several returned sequences repeat each row, and some layers see the batch flattened into its tokens:
    all in the order of the batch. One row stands for all, as with positions.

    Raises:
        AdapterNameError: The output's rows are not those of the batch.
    """
    rows, names = len(output), len(adapter_names)
    if rows == 1 and output.dim() > 2:
        return list(adapter_names)
    time_first = output.dim() > 2 and rows != names and output.shape[1] == names
    if rows % names or time_first:
        raise AdapterNameError(
            f"adapter_names has {names} entries, but a layer's output for this batch has the shape {tuple(output.shape)}, "
            "in which the rows of the batch cannot be told."
        )
    return [name for name in adapter_names for _ in range(rows // names)]


def _pass_adapter_names(module: nn.Module, args: Any, kwargs: Any, adapter_names: list[str]) -> Any:
    return args, {**kwargs, "adapter_names": adapter_names}


def _forward_each_row(wrapper: nn.Module, args: Any, kwargs: Any, output: Any, adapter_names: list[str]) -> Tensor:
    """A whole trained module such as the head, for each row that of its adapter or the base model's."""
    if not isinstance(output, Tensor):
        raise LayerError(f"modules_to_save has a {type(wrapper.original_module).__name__}, whose output is no tensor: it cannot serve a mixed batch.")
    names = names_of_rows(adapter_names, args[0])
    result = None
    for name in dict.fromkeys(names):
        index = torch.tensor([row for row, other in enumerate(names) if other == name], device=output.device)
        module = wrapper.modules_to_save[name] if name in wrapper.modules_to_save else wrapper.original_module
        part = module(*(_rows(value, index, len(names)) for value in args), **{k: _rows(v, index, len(names)) for k, v in kwargs.items()})
        result = part.new_empty(len(names), *part.shape[1:]) if result is None else result
        result[index] = part
    return result


def _rows(value: Any, index: Tensor, batch: int) -> Any:
    return value[index] if isinstance(value, Tensor) and value.dim() and len(value) == batch else value
