"""What is checked of a configuration and a model before an adapter is put into it."""

from __future__ import annotations

import warnings

from torch import nn

from propulsion.config import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, BaseModelError, TargetError, near_misses
from propulsion.experts import ExpertWeight
from propulsion.layer_kinds import kind_of
from propulsion.layers import PropulsionLayer
from propulsion.targets import check_every_entry_matches, is_preset, layer_index
from propulsion.upstream.peft_private import matches_pattern


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
        if isinstance(module, ExpertWeight):
            module.check_pooling(peft_config, name)
        elif not isinstance(module, PropulsionLayer):
            kind_of(module, name)
    for pattern in peft_config.degree_pattern or ():
        if matched and not any(matches_pattern(pattern, name) for name in matched):
            raise TargetError(
                f"degree_pattern has {pattern!r}, which is no steered module."
                f"{near_misses(pattern, {name.rpartition('.')[2] for name in matched})}"
            )
    if peft_config.train_bias and matched and not any(map(_has_bias, matched.values())):
        warnings.warn("train_bias=True has no effect: none of the steered layers has a bias.", stacklevel=2)


def _has_bias(module: nn.Module) -> bool:
    return module.has_bias if isinstance(module, PropulsionLayer) else getattr(module, "bias", None) is not None
