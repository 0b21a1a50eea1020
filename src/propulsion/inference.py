"""Gains that are computed once and used in many forward passes, where nothing is trained.

An unmerged adapter costs a power for each layer and forward pass, which is most of its price where there are few
tokens, as in each step of a generation. Within `fixed_gains` a layer does one product.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.nn.functional import linear

from propulsion.gain import in_full
from propulsion.merging import MergeableLayer
from propulsion.upstream.peft_private import state_of_layer
from propulsion.upstream.torch_private import (
    PARAMETERS,
    SUBMODULES,
    is_forward_mode,
    is_hooked,
    is_traced,
    is_transformed,
    parameters_of_bare,
    powers_of_each,
    times_changed,
)


class _Gain(NamedTuple):
    """The gain of one adapter in one layer, and by what to tell that it is still that."""

    gain: Tensor
    vector: nn.Module
    parameters: dict[str, nn.Parameter | None]  # the vector's
    weight: nn.Parameter
    changes: int
    address: int

    def holds(self, vector: nn.Module) -> bool:
        """Whether the vector is what it was: the same object, not written to, and not moved."""
        weight = self.weight
        return (
            self.vector is vector
            and times_changed(weight) == self.changes
            and weight.data_ptr() == self.address
            and weight is self.parameters.get("weight")
        )


class Product(NamedTuple):
    """All that a layer does while one adapter is active in it: the base layer's output times a gain."""

    gain: Tensor  # of shape (d_out,)
    base_layer: nn.Module
    vectors: dict[str, nn.Module]  # the layer's, by the adapter's name
    name: str
    state: tuple[Any, ...]
    known: _Gain

    def output_of_base(self, x: Tensor, args: tuple[Any, ...]) -> Tensor:
        """What the base layer makes of its input; of a linear layer without the way through `Module.__call__`."""
        base_layer = self.base_layer
        if type(base_layer) is nn.Linear and (own := parameters_of_bare(base_layer)) is not None and "bias" in own:
            return linear(x, own["weight"], own["bias"])
        return base_layer(x, *args)

    def holds(self, layer: MergeableLayer) -> bool:
        """Whether this is still all that the layer does."""
        known = self.known
        weight = known.weight
        # The checks of `_Gain` once more, because a call of Python in each layer is what this is to spare.
        return (
            state_of_layer(layer) == self.state
            and self.vectors.get(self.name) is known.vector
            and times_changed(weight) == known.changes
            and weight.data_ptr() == known.address
            and weight is known.parameters.get("weight")
        )


class _FixedGains:
    """The gains that one thread has computed so far within a context."""

    def __init__(self, layers: Iterable[MergeableLayer] | None, around: _FixedGains | None = None) -> None:
        """
        Args:
            layers: Whose gains are fixed; None for all.
            around: The context that this one is entered in.
        """
        self.layers: set[MergeableLayer] | None = None if layers is None else {*layers}
        if around is not None and around.layers is not None and self.layers is not None:
            self.layers |= around.layers
        self.known: dict[tuple[MergeableLayer, str], _Gain] = dict(around.known) if around else {}
        self._products: dict[MergeableLayer, Product] = {}

    def product(self, layer: MergeableLayer) -> Product | None:
        """The product that is all that a layer does to its output, if it is no more than that."""
        found = self._products.get(layer)
        if found is not None and found.holds(layer):
            return found
        return self._new_product(layer)

    def _new_product(self, layer: MergeableLayer) -> Product | None:
        names = [name for name in layer.active_adapters if name in layer.propulsion_delta]
        if len(names) != 1 or names[0] in layer.propulsion_bias or layer.merged or layer.disable_adapters:
            return None
        gain = self.of(layer, names[0])
        if gain is None or len(gain) != 1:
            return None
        vectors = vars(layer.propulsion_delta)[SUBMODULES]
        known, state = self.known[layer, names[0]], copy.deepcopy(state_of_layer(layer))
        self._products[layer] = Product(gain[0], layer.base_layer, vectors, names[0], state, known)
        return self._products[layer]

    def of(self, layer: MergeableLayer, adapter_name: str) -> Tensor | None:
        """The gains of an adapter in a layer, computed if need be; None if they are to be computed each time."""
        vector = layer.propulsion_delta[adapter_name]
        known = self.known.get((layer, adapter_name))
        if known is not None and known.holds(vector):
            return known.gain
        if (self.layers is not None and layer not in self.layers) or not _can_be_kept(vector):
            return None
        return self.keep(layer, adapter_name, layer.pooled_gain(adapter_name))

    def keep(self, layer: MergeableLayer, adapter_name: str, pooled: Tensor) -> Tensor:
        """Remember the pooled gains of an adapter in a layer."""
        vector = layer.propulsion_delta[adapter_name]
        parameters, weight = vars(vector)[PARAMETERS], vector.weight
        self.known[layer, adapter_name] = _Gain(
            pooled, vector, parameters, weight, times_changed(weight), weight.data_ptr()
        )
        return pooled


_FIXED: ContextVar[_FixedGains | None] = ContextVar("fixed gains", default=None)


@contextmanager
def fixed_gains(model: nn.Module) -> Iterator[None]:
    """Compute the gains of a model's adapters once, for all forward passes of this thread in the `with` block.

    The answers are the same, bit for bit. Gains that are fixed have no gradient: with gradients enabled, in compiled
    code, and under `torch.func`, layers do what they always do. Adapters can be activated, disabled, merged, loaded and
    trained inside of the block; a vector that is written to gets new gains at its next use. Only what is written
    through `.data` goes unseen, as it does for autograd.

    `generate` of a `PeftModel` does this by itself.

    Args:
        model: A model with adapters of Propulsion, or with such a model inside of it.
    """
    layers = [module for module in model.modules() if isinstance(module, MergeableLayer)]
    fixed = _FixedGains(layers, _FIXED.get())
    _compute_together(fixed, layers)
    token = _FIXED.set(fixed)
    try:
        yield
    finally:
        _FIXED.reset(token)


@contextmanager
def fixed_as_needed() -> Iterator[None]:
    """Keep the gains of all layers from their first use on; for one call of a model, in which nothing is trained."""
    if is_compiling() or _FIXED.get() is not None:  # in this order: the compiler cannot read a ContextVar
        yield
        return
    token = _FIXED.set(_FixedGains(None))
    try:
        yield
    finally:
        _FIXED.reset(token)


def fixed_product(layer: MergeableLayer) -> Product | None:
    """The product that is all that a layer does to its output, if its gain is fixed and it is no more than that."""
    fixed = None if is_compiling() else _FIXED.get()
    if fixed is None or is_grad_enabled() or is_traced() or is_transformed() or is_forward_mode():
        return None
    return fixed.product(layer)


def fixed_gain(layer: MergeableLayer, adapter_name: str) -> Tensor | None:
    """The gains of an adapter in a layer if they are fixed, as `PropulsionLayer.pooled_gain` gives them."""
    fixed = None if is_compiling() else _FIXED.get()
    if fixed is None or is_grad_enabled() or is_traced() or is_transformed() or is_forward_mode():
        return None
    return fixed.of(layer, adapter_name)


def _can_be_kept(vector: nn.Module) -> bool:
    """Whether it can be told later that a vector has not changed."""
    weight = vars(vector)[PARAMETERS].get("weight")
    return type(weight) is nn.Parameter and not (weight.is_inference() or weight.is_meta or is_hooked(vector))


def _compute_together(fixed: _FixedGains, layers: list[MergeableLayer]) -> None:
    """The gains of the active adapters with one vector for each layer, in two operations for all of them."""
    single = [
        (layer, name)
        for layer in layers
        for name in layer.active_adapters
        if name in layer.propulsion_delta
        and len(layer.propulsion_degree[name]) == 1
        and _can_be_kept(layer.propulsion_delta[name])
    ]
    degrees = [layer.propulsion_degree[name][0] for layer, name in single]
    deltas = [in_full(layer.propulsion_delta[name].weight.detach()) for layer, name in single]
    # Not one power of all of them joined: its last bits depend on where in the memory a number stands.
    with torch.no_grad():
        gains = powers_of_each(deltas, degrees)
    for (layer, name), gain in zip(single, gains, strict=True):
        fixed.keep(layer, name, gain)
