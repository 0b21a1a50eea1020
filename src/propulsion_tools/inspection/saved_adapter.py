"""A saved adapter, read without its base model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor

from propulsion import PropulsionConfig
from propulsion.adapter_files import BIAS, DELTA, split_key
from propulsion.errors import AdapterFileError
from propulsion.gain import gain
from propulsion.pooling import pool
from propulsion.upstream.peft_private import name_in_base
from propulsion_tools.errors import NotFiniteError
from propulsion_tools.inspection.adapter_config import read_config
from propulsion_tools.inspection.places import Place, model_order, place_of

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SavedLayer:
    """One steered layer.

    Attributes:
        name: Its full name in the base model.
        place: Where it sits.
        degree: k of each of its p vectors.
        z: The trained vectors 1 + δ, of shape (p, d_out).
        gain: The pooled gains, of shape (1, d_out); (2, d_out) for max and min pooling, as from `pool`.
    """

    name: str
    place: Place
    degree: tuple[int, ...]
    z: Array
    gain: Array

    @property
    def moved(self) -> float:
        """The root mean square of gain - 1."""
        return float(np.sqrt(np.square(self.gain - 1).mean()))


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter's configuration and its layers in model order.

    Attributes:
        folder: Where it lies.
        config: Its configuration.
        layers: What it steers.
        vectors: How many parameters the vectors have.
        biases: How many the biases of the steered layers have, where they were trained.
        heads: How many parameters each fully trained module has, by its name.
        file_bytes: The size of adapter_model.safetensors.
    """

    folder: Path
    config: PropulsionConfig
    layers: tuple[SavedLayer, ...]
    vectors: int
    biases: int
    heads: dict[str, int]
    file_bytes: int


def read_adapter(folder: Path) -> SavedAdapter:
    """Read an adapter and compute its gains.

    Args:
        folder: What `save_pretrained` wrote.

    Raises:
        AdapterFileError: It is no adapter's folder, not Propulsion's, or its file is damaged, incomplete or not finite.
        NotFiniteError: The vectors are finite, but their gains are not; names the layer.
    """
    config = read_config(folder, "PROPULSION")
    file = folder / SAFETENSORS_WEIGHTS_NAME
    deltas: dict[str, Tensor] = {}
    biases, heads = 0, Counter[str]()
    for key, tensor in load_file(file).items():
        name, parameter = split_key(key)
        if parameter == DELTA:
            deltas[name_in_base(name)] = tensor
        elif parameter == BIAS:
            biases += tensor.numel()
        else:
            heads[_head(name_in_base(key), config)] += tensor.numel()
    if not deltas:
        raise AdapterFileError(f"{file} holds no vectors: the file is incomplete.")
    layers = [_layer(name, delta, config, file) for name, delta in deltas.items()]
    return SavedAdapter(
        folder=folder,
        config=config,
        layers=tuple(sorted(layers, key=lambda layer: model_order(layer.place))),
        vectors=sum(delta.numel() for delta in deltas.values()),
        biases=biases,
        heads=dict(heads),
        file_bytes=file.stat().st_size,
    )


def _layer(name: str, delta: Tensor, config: PropulsionConfig, file: Path) -> SavedLayer:
    if delta.ndim != 2 or len(delta) != config.num_vectors:
        raise AdapterFileError(
            f"{file}: the vectors of {name} have the shape {tuple(delta.shape)}, which does not fit "
            f"num_vectors={config.num_vectors} in {CONFIG_NAME}."
        )
    degree = config.degrees_in(name)
    pooled = pool(gain(delta, degree), config.pooling)
    if not pooled.isfinite().all():
        degrees = ", ".join(map(str, degree))
        raise NotFiniteError(f"The gain of {name} is not finite: its vectors are too far from 1 for degree {degrees}.")
    return SavedLayer(name, place_of(name), degree, 1 + delta.double().numpy(), pooled.double().numpy())


def _head(name: str, config: PropulsionConfig) -> str:
    """The entry of modules_to_save that a tensor belongs to."""
    parts = name.split(".")
    return next((entry for entry in config.modules_to_save or () if entry.split(".")[-1] in parts), parts[0])
