"""What a configuration means for a model, and what is checked of both before an adapter is put into it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from propulsion.config import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, BaseModelError, TargetError, near_misses
from propulsion.layer_kinds import kind_of
from propulsion.targets import check_every_entry_matches, is_preset, layer_index, resolve_preset
from propulsion.upstream.peft_private import matches_pattern


def preset_names(peft_config: PropulsionConfig, model: nn.Module) -> set[str]:
    """The full names of what a configuration's preset stands for in a model, in the blocks that it names."""
    blocks, pattern = peft_config.layers_to_transform, peft_config.layers_pattern
    chosen = None if blocks is None else {blocks} if isinstance(blocks, int) else set(blocks)
    names = resolve_preset(model, str(peft_config.target_modules))
    return {name for name in names if chosen is None or layer_index(name, pattern) in chosen}


def is_steered(peft_config: PropulsionConfig, name: str, names: set[str] | None) -> Any:
    """Whether a module is to be steered, as PEFT decides it.

    Args:
        peft_config: Says what is to be steered.
        name: The module's full name.
        names: What its preset stands for; None if it has none.
    """
    if names is None:
        return check_target_module_exists(peft_config, name)
    excluded = {field: getattr(peft_config, field) for field in ("exclude_modules", "modules_to_save")}
    return check_target_module_exists(SimpleNamespace(target_modules=names, **excluded), name)


def check_adapter_name(adapter_name: str) -> None:
    """Refuse a name that PyTorch cannot store parameters under."""
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


def check_saved_shapes(peft_config: PropulsionConfig, matched: dict[str, nn.Module]) -> None:
    """Compare the layers that a saved adapter steers with those of this model."""
    saved = peft_config.saved_shapes
    if not saved:
        return
    for name, module in matched.items():
        if name not in saved:
            raise AdapterFileError(
                f"The adapter has no vector for {name}: its file is incomplete, or of another model."
            )
        size = kind_of(module, name)(module).out_features
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
        matched: Those of them that are to be steered.

    Raises:
        TargetError: An entry, a block or a pattern of degrees matches nothing.
        LayerError: A layer cannot be steered.
    """
    targets = peft_config.target_modules or ()
    if not is_preset(targets):
        check_every_entry_matches(modules, targets)
    if not matched and peft_config.layers_to_transform is not None:
        raise TargetError(
            f"Target modules {targets} not found in the base model. Note: You specified 'layers_to_transform': "
            f"{peft_config.layers_to_transform}, which leaves none of them."
        )
    blocks = peft_config.layers_to_transform
    present = {layer_index(name, peft_config.layers_pattern) for name in matched}
    for block in [] if blocks is None else [blocks] if isinstance(blocks, int) else blocks:
        if block not in present:
            raise TargetError(f"layers_to_transform has {block}, but no steered module is in a block of that number.")
    for name, module in matched.items():
        kind_of(module, name)
    for pattern in peft_config.degree_pattern or ():
        if matched and not any(matches_pattern(pattern, name) for name in matched):
            raise TargetError(
                f"degree_pattern has {pattern!r}, which is no steered module."
                f"{near_misses(pattern, {name.rpartition('.')[2] for name in matched})}"
            )
    if peft_config.train_bias and matched and not any(getattr(m, "bias", None) is not None for m in matched.values()):
        warnings.warn("train_bias=True has no effect: none of the steered layers has a bias.", stacklevel=2)
