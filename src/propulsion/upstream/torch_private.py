"""Private names of torch that the method needs.

Names that a forward asks for in every layer are bound here, not wrapped: a call of Python would cost more than theirs.
"""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks_of_all_modules
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._python_dispatch import _disable_current_modes

# Whether torch.func (grad, vmap, jvp, ...) is at work. Public are only the transforms, not the question.
is_transformed: Callable[[], bool] = torch._C._are_functorch_transforms_active

# Whether a tensor has memory of its own: a batch of vmap's and a sparse tensor have none. `untyped_storage()` raises on
# some of these and answers on others.
has_storage: Callable[[Tensor], bool] = torch._C._has_storage

# A context in which tensors are real, even below a FakeTensorMode; there is no public way to leave a mode.
without_modes: Callable[[], AbstractContextManager[Any]] = _disable_current_modes

# The normalisations as operators, because `torch.nn.functional` gives neither their `out=` nor their backward.
batch_norm: Callable[..., Any] = torch.native_batch_norm  # half the price of `torch.ops`' way to it
batch_norm_backward: Callable[..., Any] = torch.ops.aten.native_batch_norm_backward.default
layer_norm_backward: Callable[..., Any] = torch.ops.aten.native_layer_norm_backward.default

# Whether torch.jit.trace runs.
is_traced: Callable[[], bool] = torch._C._is_tracing

# How often a tensor has been changed in place, which autograd counts, and compares in a backward.
times_changed: Callable[[Tensor], int] = operator.attrgetter("_version")

# One call for many tensors, with the same bits as a call for each.
_add_to_each: Callable[..., tuple[Tensor, ...]] = torch._foreach_add
_power_of_each: Callable[..., tuple[Tensor, ...]] = torch._foreach_pow

# Where a module keeps its submodules and parameters, to find them without the search of `nn.Module.__getattr__`.
SUBMODULES, PARAMETERS = "_modules", "_parameters"

# How many tensors share a storage; None where this torch does not say.
_storage_references: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def is_recorded() -> bool:
    """Whether a program is being made of what runs: by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or is_traced()


def powers_of_each(deltas: list[Tensor], degrees: list[int]) -> tuple[Tensor, ...]:
    """(1 + δ)^k of each of many vectors, in two calls."""
    return _power_of_each(_add_to_each(deltas, 1), degrees) if deltas else ()


def is_forward_mode() -> bool:
    """Whether forward-mode differentiation is at work. `torch.autograd.forward_ad` enters levels and tells none."""
    return forward_ad._current_level >= 0


def reference_counts(tensors: tuple[Tensor, ...]) -> tuple[int, ...] | None:
    """How often the first of some tensors, its storage and what it is a view of are referred to.

    Autograd decides by the same counts, in C++, whether it adds in place; nothing public tells them.

    Args:
        tensors: A tuple, because a variable for one of them would itself be counted.

    Returns:
        Counts of Python, of torch and of the storage; None if torch did not allocate the memory, or does not tell.
    """
    # No variable holds what is counted: a debugger that reads this frame's variables would count as well.
    if not _owns_memory(tensors[0]):
        return None
    counts = (
        sys.getrefcount(tensors[0]),  # CPython's own count: references from Python are invisible to torch's
        tensors[0]._use_count(),
        _storage_references(tensors[0].untyped_storage()._cdata),  # type: ignore[misc]
    )
    if not tensors[0]._is_view():
        return counts
    return (*counts, sys.getrefcount(tensors[0]._base), tensors[0]._base._use_count())


def _owns_memory(tensor: Tensor) -> bool:
    """Whether torch itself allocated a tensor's memory, in one piece: an array of NumPy's has other owners."""
    return (
        type(tensor) is Tensor
        and _storage_references is not None
        and has_storage(tensor)
        and tensor.is_contiguous()
        and tensor.untyped_storage().resizable()
    )


def may_change_inputs(layer: nn.Module) -> bool:
    """Whether a hook may change what the layer reads. Hooks can be added, not asked for."""
    return bool(layer._forward_pre_hooks)


def is_hooked(module: nn.Module) -> bool:
    """Whether something runs before or after the module's forward, or in its place."""
    own = vars(module)
    return bool("forward" in own or own["_forward_pre_hooks"] or own["_forward_hooks"])


def parameters_of_bare(module: nn.Module) -> dict[str, Any] | None:
    """The parameters of a module whose call is its own forward and nothing else; None of one with hooks."""
    own = vars(module)
    if "forward" in own or own["_forward_pre_hooks"] or own["_forward_hooks"]:
        return None
    if hooks_of_all_modules._global_forward_pre_hooks or hooks_of_all_modules._global_forward_hooks:
        return None
    return own[PARAMETERS]


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` was given, or the model itself; what it returns has no public name for it."""
    return getattr(model, "_orig_mod", model)


def is_within_compiled(name: str) -> bool:
    """Whether a module's name shows that `torch.compile` has wrapped it, or a module around it."""
    return "_orig_mod" in name.split(".")


def has_compiled_parts(model: nn.Module) -> bool:
    """Whether `torch.compile` has wrapped a model or a module in it, or `compile()` was called of one."""
    within = any(is_within_compiled(name) for name, _ in model.named_modules())
    return within or any(module._compiled_call_impl is not None for module in model.modules())


def without_compilers_name(key: str) -> str:
    """A parameter's name as it is in the model that was not compiled."""
    return key.replace("_orig_mod.", "")


def is_watched(layer: nn.Module, base_layer: nn.Module) -> bool:
    """Whether somebody else may see what `base_layer` returns, or change what the `layer` around it makes of it.

    That is so with a hook on either, a hook on all modules, or a forward that was patched. Hooks can be added through
    public functions, but not asked for.
    """
    # By vars() because this runs in every forward of every layer, where a Module's attributes are slow.
    inside = vars(base_layer)
    return bool(
        inside["_forward_hooks"]
        or inside["_backward_hooks"]
        or "forward" in inside
        or vars(layer)["_forward_hooks"]
        or hooks_of_all_modules._global_forward_hooks
        or hooks_of_all_modules._global_backward_hooks
    )


def is_watched_by_others(module: nn.Module) -> bool:
    """Whether somebody beside the one hook after its forward that is asking may see what a module returns."""
    own = vars(module)
    return bool(
        len(own["_forward_hooks"]) > 1
        or own["_backward_hooks"]
        or "forward" in own
        or hooks_of_all_modules._global_forward_hooks
    )


def shallow_copy(module: nn.Module) -> nn.Module:
    """A module of its own with the same parameters, buffers and submodules; `copy.copy` shares the dictionaries."""
    copied = copy.copy(module)
    for field in (PARAMETERS, "_buffers", SUBMODULES):
        vars(copied)[field] = dict(vars(module)[field])
    return copied


def is_called_by_its_weight(module: nn.Module) -> bool:
    """Whether it is the projection in nn.MultiheadAttention, which reads its weight and never calls its forward."""
    return isinstance(module, NonDynamicallyQuantizableLinear)
