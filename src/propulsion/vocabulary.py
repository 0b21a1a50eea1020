"""The embedding of the vocabulary, where it belongs to an adapter because it was resized or trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion.errors import AdapterFileError, BaseModelError
from propulsion.merging import MergeableLayer
from propulsion.upstream.peft_private import name_in_base
from propulsion.upstream.transformers_private import was_resized


def embeddings_to_save(model: nn.Module, config: PeftConfig, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What has to be saved of the input and output embedding, which PEFT's `save_embedding_layers="auto"` may miss.

    PEFT compares the size of the vocabulary with that of the checkpoint that the base model is named after. A model
    that was made in memory has no name, and one with a tower for images has the size in its `text_config`.

    Args:
        model: The model with the adapter, a PeftModel or one of transformers.
        config: The adapter's configuration, which names the base model.
        state_dict: The model's, or what the caller would save of it.

    Returns:
        The weights and biases by their keys in `state_dict`, before any merging; nothing if the base model has them.
    """
    values, why = own_embeddings(model, config, state_dict)
    if values:
        warnings.warn(f"The embedding was {why}, so that it is saved with the adapter.", stacklevel=2)
    return values


def own_embeddings(
    model: nn.Module, config: PeftConfig, state_dict: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """As `embeddings_to_save`, and what was done to them: "resized" or "trained"."""
    base = _base_model(model)
    if not isinstance(base, PreTrainedModel):
        return {}, ""
    resized = _is_resized(base, config)
    names = {module: name.removeprefix("_fsdp_wrapped_module.") for name, module in model.named_modules()}
    found: dict[int, tuple[str, Tensor | None]] = {}  # by the parameter, which may be tied
    for layer in _embeddings(base):
        for module, name, parameter, original in _base_parameters(layer):
            if resized or parameter.requires_grad:
                found.setdefault(id(parameter), (f"{names[module]}.{name}", original))
    values = {
        key: state_dict[key] if original is None else original for key, original in found.values() if key in state_dict
    }
    return values, "resized" if resized else "trained"


def check_embeddings(model: nn.Module, tensors: Mapping[str, Tensor], adapter_name: str) -> None:
    """Refuse an adapter's embedding that does not fit the model, or that would change the model under other adapters.

    Args:
        model: The model, with the adapter's layers and the values of before.
        tensors: The saved adapter by the model's keys.
        adapter_name: The adapter's name.

    Raises:
        BaseModelError: The embedding has another size.
        AdapterFileError: Its values are others, and other adapters are loaded.
    """
    base = _base_model(model)
    layers = list(_embeddings(base)) if isinstance(base, PreTrainedModel) else []
    parts = {id(parameter) for layer in layers for parameter in layer.parameters()}
    frozen = {id(parameter) for layer in layers for _, _, parameter, _ in _base_parameters(layer)}
    others = [name for name in getattr(model, "peft_config", ()) if name != adapter_name]
    current = {name_in_base(key): p for key, p in model.named_parameters(remove_duplicate=False) if id(p) in parts}
    for key, tensor in tensors.items():
        own = current.get(name_in_base(key))
        if own is not None:
            _check_size(tensor.shape, own)
        if others and own is not None and id(own) in frozen and not tensor.to(own).equal(own):
            raise AdapterFileError(
                f"Adapter {adapter_name!r} has an embedding of its own, which {', '.join(others)} would get as well: "
                "load it into a base model of its own."
            )


def check_saved_embeddings(saved: Mapping[str, tuple[int, ...]], base: nn.Module) -> None:
    """Refuse an embedding of another size while the model is as it was.

    Args:
        saved: The shape of each parameter in the adapter's file that is no vector.
        base: The base model, perhaps with other adapters.

    Raises:
        BaseModelError: The embedding has another size.
    """
    if not isinstance(base, PreTrainedModel):
        return
    without_wrapper = {name.replace(".base_layer.", "."): shape for name, shape in saved.items()}
    names = {module: name for name, module in base.named_modules()}
    for layer in _embeddings(base):
        for module, name, parameter, _ in _base_parameters(layer):
            shape = without_wrapper.get(f"{names[module].removesuffix('.base_layer')}.{name}")
            if shape is not None:
                _check_size(shape, parameter)


def _check_size(saved: tuple[int, ...], own: Tensor) -> None:
    if tuple(saved) != tuple(own.shape):
        raise BaseModelError(
            f"The adapter was trained with a vocabulary of {saved[0]} tokens, and this model has {len(own)}: call "
            f"resize_token_embeddings({saved[0]}) of the base model before loading it."
        )


def _base_model(model: nn.Module) -> nn.Module:
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def _is_resized(base: PreTrainedModel, config: PeftConfig) -> bool:
    size = getattr(base.config.get_text_config(), "vocab_size", None)
    if size is None:
        return False
    name = config.base_model_name_or_path
    try:
        saved = type(base.config).from_pretrained(name, revision=config.revision, local_files_only=True)
    except (OSError, ValueError, TypeError):  # no name, or a name of nothing that is at hand
        return was_resized(base)
    return bool(saved.get_text_config().vocab_size != size)


def _embeddings(base: PreTrainedModel) -> Iterator[nn.Module]:
    """The input embedding and the output layer, as they stand in the model: bare, steered, or trained whole."""
    for find in (base.get_input_embeddings, base.get_output_embeddings):
        try:
            layer = find()
        except NotImplementedError:  # a model of other inputs than tokens
            continue
        if layer is not None:
            yield layer


def _base_parameters(layer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter, Tensor | None]]:
    """The base model's parameters in a layer: the module that has it, its name there, and the value before merging.

    That value is None for what was not merged. Nothing is the base model's in what is trained whole, as one of
    `modules_to_save`: PEFT saves that.
    """
    if isinstance(layer, AuxiliaryTrainingWrapper):
        return
    merged = layer.original_parameters if isinstance(layer, MergeableLayer) else None
    module = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
    for name, parameter in module.named_parameters(recurse=False):
        original = getattr(merged, name, None)
        yield module, name, parameter, None if original is None else original.data
