"""Put another adapter's trained values into the place of a loaded one, in a model that may be compiled and serving."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor, nn

from propulsion.adapter_files import check_adapter_tensors, with_current_name
from propulsion.config import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, ConfigError, MergeError, near_misses
from propulsion.fingerprint import check_fingerprint
from propulsion.layers import PropulsionLayer
from propulsion.upstream.torch_private import uncompiled
from propulsion.vocabulary import check_embeddings
from propulsion.weighted_adapters import check_alike, check_in_memory


def hotswap_adapter(
    model: nn.Module,
    model_name_or_path: str,
    adapter_name: str = "default",
    torch_device: str | torch.device | None = None,
    **kwargs: Any,
) -> None:
    """Replace the values of a loaded adapter by those of a saved one, in place, so that nothing is compiled again.

    The arguments are those of `peft.utils.hotswap.hotswap_adapter`, which is for LoRA alone.

    Args:
        model: A PEFT model, or what `torch.compile` made of it.
        model_name_or_path: Folder or hub id of the saved adapter.
        adapter_name: The loaded adapter; it keeps its name.
        torch_device: Where the file is read to; None: the CPU.
        **kwargs: For the hub, as in `PeftModel.from_pretrained`: ``subfolder``, ``revision``, ``token`` and so on.

    Raises:
        AdapterNameError: There is no such adapter in the model.
        ConfigError: The saved adapter has other degrees, numbers of vectors or pooling, or is not Propulsion's.
        AdapterFileError: It is damaged, or steers other layers or trains other modules than the loaded one.
        BaseModelError: It belongs to another base model.
        MergeError: The loaded adapter is merged.
    """
    model = uncompiled(model)
    if not isinstance(model, PeftModel) or adapter_name not in model.peft_config:
        hint = near_misses(adapter_name, getattr(model, "peft_config", {}))
        raise AdapterNameError(f"Adapter {adapter_name} does not exist.{hint}")
    config = PeftConfig.from_pretrained(model_name_or_path, **kwargs)
    if not isinstance(config, PropulsionConfig):
        raise ConfigError(f"{model_name_or_path} is an adapter of {config.peft_type.value}, and not of Propulsion.")
    modules = dict(model.get_base_model().named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, PropulsionLayer)}
    for name, layer in layers.items():
        check_alike(layer, name, config, [adapter_name])
    if any(adapter_name in layer.merged_adapters for layer in layers.values()):
        raise MergeError(f"The adapter {adapter_name!r} is merged: call unmerge_adapter() before it is replaced.")
    if config.base_fingerprint:
        check_fingerprint(config.base_fingerprint, modules)
    saved = load_peft_weights(model_name_or_path, device=str(torch_device or "cpu"), **kwargs)
    _copy({with_current_name(key): tensor for key, tensor in saved.items()}, model, adapter_name)


def _copy(saved: dict[str, Tensor], model: PeftModel, adapter_name: str) -> None:
    """Into the memory of the loaded values, after all of them have been compared."""
    own = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    check_in_memory(own.values())
    check_adapter_tensors(saved, own, adapter_name)
    check_embeddings(model, saved, adapter_name)
    if more := sorted(saved.keys() - own.keys()):
        raise AdapterFileError(f"The adapter has {more[0]}, which the loaded one does not train: load it beside it.")
    for key, tensor in saved.items():  # a state's tensors share the parameters' memory, and have no gradient
        own[key].copy_(tensor)
