"""One of the models that are trained together: what it trains of the backbone, and whether it can be among them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from propulsion.layers import PropulsionLayer
from propulsion.upstream.torch_private import is_hooked

_WRAPPERS = ("base_layer", "original_module")


class Member:
    """A model of transformers, alone or with one adapter of Propulsion, as joint training sees it.

    Attributes:
        model: The model.
        inner: The model of transformers in it, with the head.
        backbone: The part of that before the head.
        layers: The steered layers by the names that the layers have without an adapter.
        modules: The modules of the backbone that are trained whole, by their names.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inner: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
        self.backbone: nn.Module = getattr(self.inner, "base_model", self.inner)
        self.adapters = tuple(model.active_adapters) if isinstance(model, PeftModel) else ()
        own = self.adapters[0] if self.adapters else ""
        named = dict(self.backbone.named_modules())
        self.adapter = own
        self.layers = {n: m for n, m in named.items() if isinstance(m, PropulsionLayer) and own in m.propulsion_delta}
        wrappers = {n: m for n, m in named.items() if isinstance(m, ModulesToSaveWrapper)}
        self.modules = {name: m.modules_to_save[own] for name, m in wrappers.items() if own in m.modules_to_save}

    @cached_property
    def trained(self) -> list[nn.Parameter]:
        """The parameters of the backbone that joint training gives a gradient, those that wait included."""
        layers = [
            part[self.adapter]
            for m in self.layers.values()
            for part in (m.propulsion_delta, m.propulsion_bias)
            if self.adapter in part
        ]
        return [parameter for part in (*layers, *self.modules.values()) for parameter in part.parameters()]

    @property
    def trains(self) -> bool:
        """Whether anything of the backbone asks for a gradient now."""
        return any(parameter.requires_grad for parameter in self.trained)

    def why_apart(self) -> str | None:
        """What keeps this model from being trained with others, in words; None: nothing."""
        if self.backbone is self.inner or not hasattr(self.inner, "config"):
            return f"{type(self.inner).__name__} has no backbone apart from its head"
        if getattr(self.inner.config, "is_encoder_decoder", False):
            return "an encoder-decoder reads two sequences"
        if len(self.adapters) > 1:
            return "it has more than one active adapter"
        trained = {id(parameter) for parameter in self.trained}
        others = [n for n, p in self.backbone.named_parameters() if p.requires_grad and id(p) not in trained]
        if others:
            return f"{bare_name(others[0])} is trained by another way than gains"
        for name, module in self.backbone.named_modules():
            if _drops(module):
                return f"dropout in {bare_name(name)} draws for the whole batch what each model would draw for itself"
            if isinstance(module, PropulsionLayer) and (module.output_axis != -1 or module.merged):
                return f"{bare_name(name)} cannot be steered row by row"
            if getattr(module, "gradient_checkpointing", False):
                return "gradient checkpointing runs parts of the network again"
        hooked = [n for n, m in self.layers.items() if any(map(is_hooked, m.propulsion_delta.values()))]
        return f"the vectors of {hooked[0]} come by hooks" if hooked else None

    def frozen(self) -> dict[str, nn.Parameter]:
        """The frozen parameters that the backbone computes with, by the names that they have without an adapter."""
        own = {id(parameter) for parameter in self.trained}
        whole = tuple(f"{name}." for name in self.modules)
        named = {bare_name(name): p for name, p in self.backbone.named_parameters() if id(p) not in own}
        return {name: parameter for name, parameter in named.items() if not name.startswith(whole)}


def _drops(module: nn.Module) -> bool:
    """Whether a module draws what it leaves out, itself or by a share that it hands to a function."""
    shares = (value for name, value in vars(module).items() if "drop" in name and isinstance(value, float))
    return (isinstance(module, nn.Dropout) and module.p > 0) or any(share > 0 for share in shares)


def bare_name(name: str) -> str:
    """The name that a parameter or a module has where nothing is wrapped."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def share_frozen(model: nn.Module, like: nn.Module) -> None:
    """Let a model compute with another's frozen parameters, so that those that are equal are in memory once.

    Args:
        model: Gets them in the place of its own, where they are frozen in both and equal in every bit.
        like: Has them.
    """
    theirs = {bare_name(n): p for n, p in like.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        other = theirs.get(bare_name(name))
        if other is not None and not parameter.requires_grad and is_same(parameter, other):
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, other)


def is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal in every bit, on the same device."""
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return one is other or (alike and torch.equal(one, other))


def why_apart(members: Sequence[Member]) -> str | None:
    """What keeps models from being trained in one batch, in words.

    Args:
        members: At least one; their frozen parameters are shared already, where they are equal (`share_frozen`).

    Returns:
        None: nothing, each row can be computed as if its model were alone.
    """
    for member in members:
        if reason := member.why_apart():
            return reason
    first = members[0]
    for member in members[1:]:
        if type(member.backbone) is not type(first.backbone):
            return f"a {type(member.backbone).__name__} is no {type(first.backbone).__name__}"
        ours, theirs = first.frozen(), member.frozen()
        shared = ours.keys() & theirs.keys()
        if other := sorted(name for name in shared if ours[name] is not theirs[name]):
            return f"their frozen weights differ in {other[0]}"
        missing = (ours.keys() ^ theirs.keys()) - {n for n in ours.keys() ^ theirs.keys() if _is_whole(n, members)}
        if missing:
            return f"one of them lacks {min(missing)}"
    return None


def _is_whole(name: str, members: Sequence[Member]) -> bool:
    """Whether a parameter belongs to a module that some member trains whole."""
    return any(name.startswith(f"{module}.") for member in members for module in member.modules)
