"""What a configuration means for a model, and what is checked of both before an adapter is put into it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from propulsion.advice import listed, lists_of_blocks, on_blocks, on_entry
from propulsion.config import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, BaseModelError, LayerError, TargetError, near_misses
from propulsion.experts import ExpertWeight, holds_experts
from propulsion.heads import is_saved_whole
from propulsion.layer_kinds import kind_of
from propulsion.layers import PropulsionLayer
from propulsion.targets import (
    check_every_entry_matches,
    is_preset,
    is_stack,
    layer_index,
    missing_entries,
    resolve_preset,
)
from propulsion.upstream.peft_private import matches_pattern, name_when_saved
from propulsion.upstream.torch_private import is_within_compiled


def preset_names(peft_config: PropulsionConfig, model: nn.Module) -> set[str]:
    """The full names of what a configuration's preset stands for in a model, in the blocks that it names."""
    blocks, pattern = peft_config.layers_to_transform, peft_config.layers_pattern
    chosen = None if blocks is None else {blocks} if isinstance(blocks, int) else set(blocks)
    names = resolve_preset(model, str(peft_config.target_modules), experts=True)
    names = [name for name in names if not is_stack(model, name) or holds_experts(model.get_submodule(name))]
    return {name for name in names if chosen is None or layer_index(name, pattern) in chosen}


def is_steered(peft_config: PropulsionConfig, name: str, names: set[str] | None, model: nn.Module) -> Any:
    """Whether a module is to be steered, as PEFT decides it; a preset stands for the full names of its modules.

    Args:
        peft_config: Says what is to be steered.
        name: The module's full name.
        names: What its preset stands for; None if it has none.
        model: The model, perhaps with adapters.
    """
    if names is None:
        return check_target_module_exists(peft_config, name)
    if name in names and _was_passed_over(peft_config, name, model):
        return False
    return is_left_in(peft_config, name, names)


def is_left_in(peft_config: PropulsionConfig, name: str, names: set[str]) -> Any:
    """Whether a module is one of these and left in by `exclude_modules` and `modules_to_save`, as PEFT tells it."""
    excluded = {field: getattr(peft_config, field) for field in ("exclude_modules", "modules_to_save")}
    return check_target_module_exists(SimpleNamespace(target_modules=names, **excluded), name)


def _was_passed_over(peft_config: PropulsionConfig, name: str, model: nn.Module) -> bool:
    """Whether a saved adapter is of a release whose presets had no experts."""
    saved = peft_config.saved_names
    if saved is None or not saved.shapes or not holds_experts(model.get_submodule(name)):
        return False
    return not any(layer.startswith(f"{name}.") for layer in saved.shapes)


def check_adapter_name(adapter_name: str) -> None:
    """Refuse a name that PyTorch cannot store parameters under.

    Raises:
        AdapterNameError: Says why.
    """
    if (
        not adapter_name
        or "." in adapter_name
        or adapter_name.startswith("_")
        or hasattr(nn.ModuleDict(), adapter_name)
    ):
        raise AdapterNameError(
            f"An adapter cannot be named {adapter_name!r}, which is empty, has a dot, begins with an underscore, or is "
            "an attribute of torch's ModuleDict: choose another name."
        )


def check_name_beside_heads(adapter_name: str, modules_to_save: list[str], model: nn.Module) -> None:
    """Refuse a name that is part of the name of a parameter that is trained whole: PEFT saves it without that part.

    Raises:
        AdapterNameError: Names the parameter.
    """
    for name, _ in model.named_parameters():
        saved = name_when_saved(name)
        if adapter_name in saved.split(".") and is_saved_whole(saved, modules_to_save):
            raise AdapterNameError(
                f"An adapter cannot be named {adapter_name!r}, because it trains {saved}, out of whose name PEFT takes "
                "the adapter's: choose another name."
            )


def check_not_compiled(modules: Iterable[str]) -> None:
    """Refuse a model that has been compiled: its adapter would be saved under names that no other model has.

    Raises:
        TargetError: Says what to compile.
    """
    if any(is_within_compiled(name) for name in modules):
        raise TargetError(
            "This model, or a part of it, is compiled: put the adapter into the model first, and then compile what "
            "get_peft_model or PeftModel.from_pretrained returns."
        )


def check_not_in_parts(matched: dict[str, nn.Module]) -> None:
    """Refuse layers of which each process has a part: a vector would not be shared out, nor its gradient added up.

    Raises:
        LayerError: Says how to load the model.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    from torch.distributed.tensor import DTensor  # slow to import, and missing where PyTorch has been built without it

    for name, module in matched.items():
        if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise LayerError(
                f"{name} has a part of its weights in each process (a DTensor): load the model without tp_plan or "
                "distributed_config, put the adapter into it, and let FSDP2 spread it after that."
            )


def check_not_an_owner(model: nn.Module, matched: dict[str, nn.Module]) -> None:
    """Refuse the embedding that encoder and decoder have their weight from, because it never runs.

    Raises:
        TargetError: Names the embeddings that run.
    """
    embeddings = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.Embedding)}
    for name in matched.keys() & {name for name in embeddings if name.rpartition(".")[2] == "shared"}:
        weight = embeddings[name].weight
        users = [other for other, module in embeddings.items() if module.weight is weight and other != name]
        if users:
            raise TargetError(
                f"{name} owns a weight and never runs, so a vector there does nothing: name {listed(users, 'and')}."
            )


def check_saved_shapes(peft_config: PropulsionConfig, matched: dict[str, nn.Module]) -> None:
    """Compare the layers that a saved adapter steers with those of this model."""
    if peft_config.saved_names is None:
        return
    saved = peft_config.saved_names.shapes
    for name, module in matched.items():
        if name not in saved:
            raise AdapterFileError(
                f"The adapter has no vector for {name}: its file is incomplete, or of another model."
            )
        layer = module if isinstance(module, PropulsionLayer) else kind_of(module, name)(module)
        size = layer.out_features
        if saved[name][-1] != size:
            raise BaseModelError(
                f"The adapter has the shape {saved[name]} for {name}, which has {size} outputs in this model: load it "
                "onto the base model named in its adapter_config.json."
            )


def check_targets(peft_config: PropulsionConfig, modules: dict[str, nn.Module], matched: dict[str, nn.Module]) -> None:
    """Refuse targets that name nothing, or what cannot be steered.

    Args:
        peft_config: Says what is to be steered.
        modules: All modules of the model by name.
        matched: Those of them that are to be steered, with layers for the weights of experts.

    Raises:
        TargetError: An entry, a block or a pattern of degrees matches nothing.
        LayerError: A layer cannot be steered.
    """
    targets = peft_config.target_modules or ()
    if not is_preset(targets) and (targets or not peft_config.target_parameters):
        check_every_entry_matches(modules, targets)
    _check_blocks(peft_config, modules, matched)
    if not peft_config.base_fingerprint:  # of a saved adapter, the base model may now have another head
        _check_other_names(peft_config, modules)
    for name, module in matched.items():
        if isinstance(module, ExpertWeight):
            module.check_pooling(peft_config, name)
        elif not isinstance(module, PropulsionLayer):
            kind_of(module, name)
    for pattern in peft_config.degree_pattern or ():
        if matched and not any(matches_pattern(pattern, name) for name in matched):
            ends = sorted({name.rpartition(".")[2] for name in matched})
            raise TargetError(
                f"degree_pattern has {pattern!r}, which is no steered module.{near_misses(pattern, ends)} Those end in "
                f"{listed(ends, 'and')}."
            )
    if peft_config.train_bias and matched and not any(map(has_bias, matched.values())):
        warnings.warn("train_bias=True has no effect: none of the steered layers has a bias.", stacklevel=2)


def has_bias(module: nn.Module) -> bool:
    """Whether a layer, steered or not, adds a bias to its output."""
    return module.has_bias if isinstance(module, PropulsionLayer) else getattr(module, "bias", None) is not None


def _check_blocks(peft_config: PropulsionConfig, modules: dict[str, nn.Module], matched: dict[str, nn.Module]) -> None:
    blocks, pattern = peft_config.layers_to_transform, peft_config.layers_pattern
    if blocks is None:
        return
    numbers = {layer_index(name, pattern) for name in modules}
    if numbers == {None}:
        lists = lists_of_blocks(modules)
        near = near_misses(pattern, lists) if isinstance(pattern, str) else ""
        raise TargetError(
            f"layers_to_transform needs blocks with a number, and layers_pattern={pattern!r} finds none.{near} Lists "
            f"of modules are {listed(lists, 'and') if lists else 'not there'}."
        )
    present = {layer_index(name, pattern) for name in matched}
    for block in [blocks] if isinstance(blocks, int) else blocks:
        if block not in present:
            raise TargetError(
                f"layers_to_transform has {block}, but no steered module is in a block of that number."
                f"{on_blocks(numbers)}"
            )


def _check_other_names(peft_config: PropulsionConfig, modules: dict[str, nn.Module]) -> None:
    """Refuse names of what to leave alone or to train whole that are in no module's name."""
    excluded = peft_config.exclude_modules or ()
    if isinstance(excluded, str):
        misses = [] if any(re.fullmatch(excluded, name) for name in modules) else [excluded]
    else:
        misses = missing_entries(modules, excluded)
    for name in sorted(misses):
        raise TargetError(f"exclude_modules has {name!r}, which is no module.{on_entry(name, modules, ())}")
    for name in peft_config.named_modules_to_save:
        if not any(module.endswith(name) for module in modules):
            raise TargetError(f"modules_to_save has {name!r}, which is no module.{on_entry(name, modules, ())}")
