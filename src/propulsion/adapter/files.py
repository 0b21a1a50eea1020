"""What is checked of a saved adapter before a model is touched."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from propulsion.errors import AdapterFileError, BaseModelError


def check_adapter_folder(folder: str) -> None:
    """Refuse a folder whose adapter_model.safetensors is damaged or not finite.

    Raises:
        AdapterFileError: It cannot be read, or it has values that are not finite.
    """
    path = os.path.join(folder, SAFETENSORS_WEIGHTS_NAME)
    if not os.path.isfile(path):
        return
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (the file is no dictionary)
                check_finite({key: file.get_tensor(key)}, path)
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path} is damaged ({error}): get or train the adapter again.") from error


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse tensors with values that are not finite.

    Raises:
        AdapterFileError: Names the first such tensor.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
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
