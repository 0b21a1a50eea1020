"""Which weights of stacked experts are steered, and a warning of those that could be taken to be and are not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from propulsion.errors import TargetError, near_misses
from propulsion.experts import WEIGHTS, ExpertWeight, SteeredExperts, holds_experts, is_experts, stacked_weights
from propulsion.layer_kinds import KINDS

LAYERS = tuple(kind.base_class for kind in KINDS)


def weights_of(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """The layers that steer an experts module's weights, by full name; any other module as it is."""
    if isinstance(module, SteeredExperts):
        return {f"{name}.{layer.weight_name}": layer for layer in module.weights}
    return {f"{name}.{weight}": ExpertWeight(module, weight) for weight in stacked_weights(module)} or {name: module}


def split_experts(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules by name, with those that hold experts replaced by the layers for their weights."""
    return {key: layer for name, module in modules.items() for key, layer in weights_of(name, module).items()}


def with_experts_modules(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A saved adapter's state with a key for each module of experts, beside those for the weights in it."""
    keys = re.compile(rf"(.*)\.(?:{'|'.join(WEIGHTS)})(\.propulsion_delta.*)")
    modules = {f"{match[1]}{match[2]}": state_dict[match[0]] for match in map(keys.fullmatch, state_dict) if match}
    return {**modules, **state_dict}


def match_parameters(
    target_parameters: Iterable[str], modules: Mapping[str, nn.Module], is_wanted: Callable[[str], bool]
) -> dict[str, nn.Module]:
    """The weights of experts that are targeted by name.

    Args:
        target_parameters: Full names of parameters, or their ends after a dot, as PEFT takes them.
        modules: All modules of the model by name.
        is_wanted: Whether a module of this name is not left out by other fields.

    Returns:
        The layer for each weight by the weight's full name.

    Raises:
        TargetError: An entry matches nothing, or something else than experts' stacked weights.
    """
    weights: dict[str, nn.Module] = {}
    for name, module in modules.items():
        # The base layer of a wrapper is an experts module too.
        if holds_experts(module) and not name.endswith(".base_layer"):
            weights |= weights_of(name, module)
    found: dict[str, nn.Module] = {}
    for entry in target_parameters:
        matching = {name: layer for name, layer in weights.items() if name == entry or name.endswith(f".{entry}")}
        if not matching:
            raise TargetError(_no_such_parameter(entry, modules, weights))
        found |= {name: layer for name, layer in matching.items() if is_wanted(name.rpartition(".")[0])}
    return found


def _no_such_parameter(entry: str, modules: Mapping[str, nn.Module], weights: Iterable[str]) -> str:
    parameters = (
        f"{name}.{key}" for name, module in modules.items() for key, _ in module.named_parameters(recurse=False)
    )
    if any(name == entry or name.endswith(f".{entry}") for name in parameters):
        return (
            f"The entry {entry!r} of target_parameters is no stacked weight of experts: name a layer's module in "
            "target_modules. An expert's bias is steered with its weight."
        )
    depth = entry.count(".") + 1
    near = near_misses(entry, {".".join(name.split(".")[-depth:]) for name in weights})
    return f"The entry {entry!r} of target_parameters matches no stacked weight of experts.{near}"


def warn_of_unsteered(
    modules: Mapping[str, nn.Module],
    matched: Iterable[str],
    takes_all: bool,
    is_left_out: Callable[[str], bool],
) -> None:
    """Warn if stacked weights stay as they are beside layers that are steered.

    Args:
        modules: All modules of the model by name.
        matched: The full names of the layers and weights that are steered.
        takes_all: The targets stand for all layers of a kind, so that a user may expect these to be among them.
        is_left_out: Whether a module of this name is excluded on purpose.
    """
    steered, blocks = set(matched), {_block_of(name) for name in matched} - {""}
    unsteered: dict[str, int] = {}
    total = 0
    for name, module in modules.items():
        name = name.replace(".base_layer", "")
        if _block_of(name) not in blocks or ".propulsion_" in name:
            continue
        for key, parameter in module.named_parameters(recurse=False):
            total += parameter.numel() if parameter.dim() > 1 else 0
            is_told = _is_stack(module, parameter) and not is_left_out(name) and not _has_any(name, steered)
            if is_told and (takes_all or _has_any(name.rpartition(".")[0], steered)):
                unsteered[f"{name}.{key}"] = parameter.numel()
    if unsteered:
        warnings.warn(_told(unsteered, total, modules), stacklevel=2)


def _has_any(name: str, steered: Iterable[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in steered)


def _is_stack(module: nn.Module, parameter: Tensor) -> bool:
    return parameter.dim() > 2 and not isinstance(module, LAYERS)


def _told(unsteered: Mapping[str, int], total: int, modules: Mapping[str, nn.Module]) -> str:
    first = next(iter(unsteered))
    holders = {name.rpartition(".")[0] for name in unsteered}
    known = [
        name for name in holders if any(is_experts(modules[n]) for n in (name, f"{name}.base_layer") if n in modules)
    ]
    endings = sorted({".".join(name.split(".")[-2:]) for name in unsteered})
    advice = (
        f"Pass target_parameters={endings} to steer them."
        if len(known) == len(holders)
        else "These stacked weights are quantized, or not of the kind of experts that can be steered."
    )
    return (
        f"{sum(unsteered.values()) / total:.0%} of the weights in the targeted blocks stay as they are: {first}"
        f"{f' and {len(unsteered) - 1} more' if len(unsteered) > 1 else ''}. {advice}"
    )


def _block_of(name: str) -> str:
    match = re.match(r".*?\.\d+(?=\.)", name)
    return match[0] if match else ""
