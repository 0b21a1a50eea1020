"""What is checked of a saved adapter before a model is touched."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from propulsion.errors import AdapterFileError, BaseModelError
from propulsion.heads import is_saved_whole
from propulsion.upstream.peft_private import name_in_base

DELTA, BIAS = "propulsion_delta.weight", "propulsion_bias.weight"
VECTOR_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# PEFT saves these with an adapter whose model's vocabulary was resized, or if they are targeted by name.
EMBEDDINGS = {"embed_tokens", "lm_head", "word_embeddings", "wte", "embed_in", "embed_out", "shared"}


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


def check_adapter_folder(folder: str, num_vectors: int, modules_to_save: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Refuse a folder whose adapter_model.safetensors is damaged, not finite, or would change the base model.

    Args:
        folder: Where PEFT saved the adapter.
        num_vectors: p, as its configuration says.
        modules_to_save: The modules that were trained in full.

    Returns:
        The shape of δ for each steered layer by the layer's name; nothing if there is no such file.

    Raises:
        AdapterFileError: It cannot be used; says why.
    """
    path = os.path.join(folder, SAFETENSORS_WEIGHTS_NAME)
    if not os.path.isfile(path):
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (the file is no dictionary)
                shape = tuple(file.get_slice(key).get_shape())
                name, parameter = split_key(key)
                _check_key(key, parameter, shape, num_vectors, modules_to_save, path)
                check_finite({key: file.get_tensor(key)}, path)
                if parameter == DELTA:
                    shapes[name_in_base(name)] = shape
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path} is damaged ({error}): get or train the adapter again.") from error
    return shapes


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
    if not (is_saved_whole(key.rpartition(".")[0], modules_to_save) or EMBEDDINGS & set(key.split("."))):
        raise AdapterFileError(
            f"{path} has weights for {key}, which is neither a vector of Propulsion nor in modules_to_save: they would "
            "overwrite the base model."
        )


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
