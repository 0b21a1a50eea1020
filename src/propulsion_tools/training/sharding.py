"""Parameters of which each process holds a part, as FSDP2 and DeepSpeed's ZeRO-3 keep them: whole for a while.

All of this is called in every process of a run, or in none: bringing the parts together takes all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.utils.integrations import gather_params_ctx
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication

Choice = Callable[[str, nn.Parameter], bool]
"""Of a parameter's name and the parameter."""


def is_trained(name: str, parameter: nn.Parameter) -> bool:
    """The choice of what training changes."""
    return parameter.requires_grad


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process; all of it, where nothing is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, in parts where another one of its shape is."""
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    placed = value.to(tensor.device)
    return distribute_tensor(placed, tensor.device_mesh, tensor.placements)


@contextlib.contextmanager
def whole_parameters(model: nn.Module, chosen: Choice) -> Iterator[None]:
    """Parameters can be read whole in each process, as if nothing were sharded; what is not sharded stays as it is.

    Args:
        model: Not in the middle of a forward or backward pass.
        chosen: Which; each process holds all of these meanwhile.
    """
    parts = [
        (module, name, parameter)
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if chosen(f"{path}.{name}", parameter)
    ]
    with _gathered([parameter for *_, parameter in parts], changed=False):
        sharded = [(module, name, p) for module, name, p in parts if isinstance(p, DTensor)]
        together = {p: nn.Parameter(whole(p.detach()), p.requires_grad) for *_, p in sharded}
        for module, name, parameter in sharded:
            setattr(module, name, together[parameter])
        try:
            yield
        finally:
            for module, name, parameter in sharded:
                setattr(module, name, parameter)


@contextlib.contextmanager
def takes_whole_values(model: nn.Module) -> Iterator[None]:
    """What is trained can be given whole values, the same in each process, of which each keeps its part."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _gathered(trained, changed=True), implicit_replication():
        yield


def _gathered(parameters: list[nn.Parameter], changed: bool) -> contextlib.AbstractContextManager[Any]:
    """Those that ZeRO-3 has taken apart are whole meanwhile, with the first process's values afterwards if changed."""
    context: contextlib.AbstractContextManager[Any] = gather_params_ctx(parameters, 0 if changed else None)
    return context


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's `state_dict()` with whole tensors, as one process would have it."""
    of_parameters = {
        number: {key: whole(value) if isinstance(value, Tensor) else value for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": of_parameters}


def sharded_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's `state_dict()` of whole tensors, in parts where the optimizer's parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_parameters = {
        number: {
            key: sharded_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": of_parameters}
