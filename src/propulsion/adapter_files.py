"""What is checked of a saved adapter before a model is touched."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from propulsion.errors import AdapterFileError, BaseModelError
from propulsion.heads import is_saved_whole
from propulsion.upstream.peft_private import name_in_base

DELTA, BIAS = "propulsion_delta.weight", "propulsion_bias.weight"
VECTOR_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Saved with an adapter whose model's vocabulary was resized, or if they are targeted by name.
EMBEDDINGS = {"embed_tokens", "word_embeddings", "wte", "embed_in", "shared"}
OUTPUT_LAYERS = {"lm_head", "embed_out", "generator_lm_head", "vocab_projector", "proj_out", "predictions.decoder"}


HOW_TO_LOAD = """
## How to load it

PEFT knows the method once `propulsion` is imported, and raises `KeyError: 'PROPULSION'` before that.

```python
import propulsion
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path or id of this adapter")
```
"""


def say_how_to_load(folder: str) -> None:
    """Add to the model card beside a saved adapter that loading it needs an import.

    An adapter with a name of its own has the card in the folder above. That is only written to if it is the card of a
    model with Propulsion.
    """
    for above, marks in (("", ("library_name: peft",)), (os.pardir, ("library_name: peft", "- propulsion\n"))):
        path = os.path.join(folder, above, "README.md")
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
        metadata = text.split("---\n", 2)[1] if text.count("---\n") > 1 else ""
        if all(mark in metadata for mark in marks) and "import propulsion" not in text:
            partial_path = f"{path}.{os.getpid()}.tmp"
            with open(partial_path, "w", encoding="utf-8", newline="") as file:
                file.write(text + HOW_TO_LOAD)
            os.replace(partial_path, path)


def with_current_name(key: str) -> str:
    """A key of a saved adapter as it is named now: the first release saved vectors without the last `.weight`."""
    return f"{key}.weight" if key.endswith((".propulsion_delta", ".propulsion_bias")) else key


def split_key(key: str) -> tuple[str, str]:
    """A key of a saved adapter as the name of its layer, with PEFT's prefix, and `DELTA`, `BIAS` or the key itself."""
    named = with_current_name(key)
    for vector in (DELTA, BIAS):
        if named.endswith(f".{vector}"):
            return named.removesuffix(f".{vector}"), vector
    return "", key


def is_vector(key: str) -> bool:
    """Whether a key of a saved adapter is that of a vector or a bias of ours."""
    return split_key(key)[1] in (DELTA, BIAS)


class SavedNames(NamedTuple):
    """What a saved adapter has, by names in the base model.

    Attributes:
        shapes: The shape of δ for each steered layer by the layer's name.
        others: The shape of each parameter that is no vector: of heads, or of an embedding.
    """

    shapes: dict[str, tuple[int, ...]]
    others: dict[str, tuple[int, ...]]


def check_adapter_folder(folder: str, num_vectors: int, modules_to_save: Collection[str]) -> SavedNames | None:
    """Refuse a folder whose adapter_model.safetensors is damaged, not finite, or would change the base model.

    Args:
        folder: Where PEFT saved the adapter.
        num_vectors: p, as its configuration says.
        modules_to_save: The modules that were trained in full.

    Returns:
        What the file has; None if there is no such file.

    Raises:
        AdapterFileError: It cannot be used; says why.
    """
    path = os.path.join(folder, SAFETENSORS_WEIGHTS_NAME)
    if not os.path.isfile(path):
        if os.path.isfile(os.path.join(folder, WEIGHTS_NAME)):
            raise AdapterFileError(
                f"{folder} has its weights in {WEIGHTS_NAME}, a pickle: only {SAFETENSORS_WEIGHTS_NAME} is read. Save "
                "the adapter again with save_pretrained."
            )
        return None
    saved = SavedNames({}, {})
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (the file is no dictionary)
                shape = tuple(file.get_slice(key).get_shape())
                name, parameter = split_key(key)
                _check_key(key, parameter, shape, num_vectors, modules_to_save, path)
                check_finite({key: file.get_tensor(key)}, path)
                if parameter == DELTA:
                    saved.shapes[name_in_base(name)] = shape
                elif not is_vector(key):
                    saved.others[name_in_base(key)] = shape
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path} is damaged ({error}): get or train the adapter again.") from error
    return saved


def _check_key(
    key: str, parameter: str, shape: tuple[int, ...], num_vectors: int, modules_to_save: Collection[str], path: str
) -> None:
    if parameter == DELTA and (len(shape) != 2 or shape[0] != num_vectors):
        raise AdapterFileError(
            f"{path}: {key} has the shape {shape}, but adapter_config.json says num_vectors={num_vectors}: one of the "
            "two files is another adapter's."
        )
    if parameter in (DELTA, BIAS):
        return
    if not (is_saved_whole(key.rpartition(".")[0], modules_to_save) or is_of_the_vocabulary(key)):
        raise AdapterFileError(
            f"{path} has weights for {key}, which is neither a vector of Propulsion nor in modules_to_save: they would "
            "overwrite the base model."
        )


def is_of_the_vocabulary(key: str) -> bool:
    """Whether a key of a saved adapter is that of an embedding or of the layer that gives tokens their scores."""
    name = f".{key}"
    return any(f".{module}." in name for module in EMBEDDINGS | OUTPUT_LAYERS)


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse tensors with values that are not finite, and vectors that are no floating point numbers.

    Raises:
        AdapterFileError: Names the first such tensor.
    """
    for key, tensor in tensors.items():
        if is_vector(key) and tensor.dtype not in VECTOR_DTYPES:
            raise AdapterFileError(f"{origin}: {key} is of {tensor.dtype}, not of a floating point type for training.")
        if tensor.dtype in VECTOR_DTYPES and not torch.isfinite(tensor).all():
            raise AdapterFileError(
                f"{origin}: {key} has values that are not finite: the training diverged; use an earlier checkpoint."
            )


def check_adapter_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], adapter_name: str) -> None:
    """Refuse a saved adapter that does not fill this model's vectors.

    Args:
        tensors: The saved tensors by the model's names.
        expected: The model's own tensors of this adapter.
        adapter_name: Its name.

    Raises:
        AdapterFileError: Vectors are missing, or their values are not finite.
        BaseModelError: They have other sizes.
    """
    check_finite(tensors, f"Adapter {adapter_name!r}")
    for key, tensor in expected.items():
        if key not in tensors:
            raise AdapterFileError(
                f"Adapter {adapter_name!r} has no vector for {key}: the file is incomplete, or of another model."
            )
        if tensors[key].shape != tensor.shape:
            raise BaseModelError(
                f"Adapter {adapter_name!r} has the shape {tuple(tensors[key].shape)} for {key}, this model "
                f"{tuple(tensor.shape)}: load it onto the base model named in its adapter_config.json."
            )


def vectors_to_save(
    model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor], others: Collection[str]
) -> dict[str, Tensor]:
    """An adapter's vectors out of a model's state.

    Args:
        model: The model with its adapters.
        adapter_name: Which.
        state_dict: The model's state, without what PEFT takes for other adapters' by its name; or empty, where another
            process saves.
        others: The other adapters' names.

    Returns:
        The vectors and biases by the model's keys.

    Raises:
        AdapterFileError: The state lacks something that this adapter trains; says why.
    """
    names = [_name_in_state(name) for name, _ in model.named_parameters()]
    endings = tuple(f".{vector.replace('.', f'.{adapter_name}.')}" for vector in (DELTA, BIAS))
    vectors = [name for name in names if f".{name}".endswith(endings)]
    trained = [*vectors, *(name for name in names if f".modules_to_save.{adapter_name}." in name)]
    missing = [name for name in trained if name not in state_dict]
    if state_dict and missing:
        raise AdapterFileError(_why_missing(missing[0], adapter_name, state_dict, others))
    return {name: state_dict[name] for name in vectors if name in state_dict}


def _why_missing(name: str, adapter_name: str, state_dict: Mapping[str, Tensor], others: Collection[str]) -> str:
    like = next((other for other in others if other in name.split(".")), None)
    if like:
        return (
            f"The adapter {adapter_name!r} cannot be saved beside {like!r}, which is named like a part of the model: "
            f"PEFT would leave out what has that name, such as {name}. Load or train the other under another name."
        )
    return (
        f"The state_dict that is to be saved lacks {name} of the adapter {adapter_name!r}, and has names such as "
        f"{next(iter(state_dict))}: leave it out, or give that of the PeftModel, not of what is around it."
    )


def _name_in_state(name: str) -> str:
    """The key in a state_dict of a parameter: FSDP and activation checkpointing take their wrappers' names out."""
    return name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "")
