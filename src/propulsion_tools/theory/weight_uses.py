"""Where a model uses each of its parameters: as the weight of a linear layer or of a lookup, or in another way.

The calls are traced, not the modules, so that tied weights, layers that run several times, and modules with a forward
of their own (BART's positions, scaled embeddings, Conv1D) are seen as what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from propulsion_tools.upstream.torch_private import leaves, times_changed

_LINEAR = ("input", "weight", "bias")
_LOOKUP = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


@dataclass(frozen=True)
class WeightUse:
    """One call with a parameter as its weight W.

    Attributes:
        kind: "linear" for y = W x + b, "transposed" for y = x W + b, "lookup" for y_t = W[x_t].
        input: x, of shape (..., d_in); ids of shape (...) of a lookup.
        output: y, of shape (..., d_out).
        ignored: The id whose row gets no gradient, of a lookup with `padding_idx`.
    """

    kind: str
    input: Tensor
    output: Tensor
    ignored: int | None = None


class UsageTracer(TorchFunctionMode):
    """Records every use of the parameters in `names` while it is entered.

    Args:
        names: The name of each parameter by its id().
        wanted: Names of those whose outputs will be asked for their gradient; None: nobody will.
    """

    def __init__(self, names: Mapping[int, str], wanted: Collection[str] | None = None) -> None:
        super().__init__()
        self.names = names
        self.wanted = wanted
        self.uses: dict[str, list[WeightUse]] = {}
        self.otherwise: set[str] = set()
        self.order: dict[str, None] = {}
        self._versions: list[tuple[str, Tensor, int]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        named = [name for leaf in leaves((args, kwargs)) if (name := self.names.get(id(leaf)))]
        if not named or not any(isinstance(leaf, Tensor) for leaf in leaves(result)):
            return result
        self.order.update(dict.fromkeys(named))
        call = _read(func, args, kwargs)
        name = self.names.get(id(call.weight)) if call is not None else None
        if call is None or name is None or named.count(name) > 1:
            self.otherwise.update(named)
            return result
        self.otherwise.update(other for other in named if other != name)
        return self._note(name, call, result)

    def _note(self, name: str, call: _Call, result: Tensor) -> Tensor:
        if self.wanted is not None:
            if name not in self.wanted:
                return result
            if not result.requires_grad and torch.is_grad_enabled():
                result.requires_grad_()
        self.uses.setdefault(name, []).append(WeightUse(call.kind, call.input.detach(), result, call.ignored))
        if len({use.kind == "transposed" for use in self.uses[name]}) > 1:
            self.otherwise.add(name)
        self._versions.append((name, call.input, times_changed(call.input)))
        # What comes next may change its input in place, and must not change what the gradient is asked for.
        return result.clone()

    def changed(self) -> set[str]:
        """Names of the parameters that met an input which was changed in place later."""
        return {name for name, values, version in self._versions if times_changed(values) != version}


class _Call(NamedTuple):
    kind: str
    weight: Tensor
    input: Tensor
    ignored: int | None = None


def _read(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
    """What a linear layer or a lookup computes from what; None of any other call."""
    if func is functional.linear:
        given = dict(zip(_LINEAR, args, strict=False)) | kwargs
        return _Call("linear", given["weight"], given["input"])
    if func is torch.addmm and not kwargs and len(args) == 3:
        return _Call("transposed", args[2], args[1])
    if func is functional.embedding:
        given = dict(zip(_LOOKUP, args, strict=False)) | kwargs
        if given.get("max_norm") is None and not given.get("scale_grad_by_freq"):
            padding = given.get("padding_idx")
            ignored = None if padding is None else padding % len(given["weight"])
            return _Call("lookup", given["weight"], given["input"], ignored)
    return None


def names_by_id(parameters: Iterator[tuple[str, Tensor]]) -> dict[int, str]:
    """The name of each parameter by its id(); a tied one has its first name."""
    names: dict[int, str] = {}
    for name, parameter in parameters:
        names.setdefault(id(parameter), name)
    return names
