"""The methods of PEFT that can say what Propulsion says: one number for each output of a linear layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, RoadConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from propulsion.layers import PropulsionLayer
from propulsion.pooling import folds_into_weights
from propulsion_tools.errors import OptionError

ADAPTER = "default"
LARGEST_GROUP = 64  # PEFT's own for RoAd


@dataclass(frozen=True)
class Format:
    """One of PEFT's methods as a form of an adapter of ours.

    Attributes:
        refusal: Why a layer does not fit, as a noun with its relative clause; None: it does.
        config: The configuration, given those of its fields that every method has, and the layers.
        write: Puts a layer's gains into PEFT's layer.
    """

    refusal: Callable[[PropulsionLayer], str | None]
    config: Callable[[dict[str, Any], Mapping[str, PropulsionLayer]], PeftConfig]
    write: Callable[[BaseTunerLayer, Tensor], None]


def check_one_gain(name: str, layer: PropulsionLayer) -> None:
    """Refuse gains that depend on the sign of the output: neither a weight nor another method has a place for them.

    Raises:
        OptionError: The layer's vectors are pooled by max or min.
    """
    pooling, vectors = layer.propulsion_pooling[ADAPTER], len(layer.propulsion_degree[ADAPTER])
    if not folds_into_weights(pooling, vectors):
        raise OptionError(
            f"{name} has {vectors} vectors with pooling={pooling!r}, which gives outputs of either sign a gain of "
            "their own: this cannot be exported; train with pooling='mean' or 'l2'."
        )


def gain_of(layer: PropulsionLayer) -> Tensor:
    """The gains of a layer, of shape (d_out,), float32."""
    (gain,) = layer.pooled_gain(ADAPTER).detach()
    return gain.float()


def _kind(layer: PropulsionLayer) -> str:
    return type(layer.get_base_layer()).__name__


def _no_place_for_biases(layer: PropulsionLayer) -> str | None:
    return "has a trained bias, which the format has no place for" if ADAPTER in layer.propulsion_bias else None


def _ia3_refusal(layer: PropulsionLayer) -> str | None:
    if not isinstance(layer.get_base_layer(), nn.Linear | Conv1D | nn.Conv2d | nn.Conv3d):
        return f"is a layer of the kind {_kind(layer)}, which (IA)³ cannot scale"
    return _no_place_for_biases(layer)


def _road_refusal(layer: PropulsionLayer) -> str | None:
    if not isinstance(layer.get_base_layer(), nn.Linear):
        return f"is a layer of the kind {_kind(layer)}, which RoAd cannot scale"
    if layer.out_features % 2:
        return f"has {layer.out_features} outputs, and RoAd pairs them"
    return _no_place_for_biases(layer)


def _dora_refusal(layer: PropulsionLayer) -> str | None:
    base_layer = layer.get_base_layer()
    if not isinstance(base_layer, nn.Linear):
        return f"is a layer of the kind {_kind(layer)}, which DoRA cannot scale"
    return "has a bias, which DoRA does not scale" if layer.has_bias else None


def _ia3_config(common: dict[str, Any], layers: Mapping[str, PropulsionLayer]) -> PeftConfig:
    is_transposed = any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values())
    return IA3Config(**common, feedforward_modules=[], fan_in_fan_out=is_transposed)


def _road_config(common: dict[str, Any], layers: Mapping[str, PropulsionLayer]) -> PeftConfig:
    shared = math.gcd(*(layer.out_features for layer in layers.values()))
    group = max(size for size in range(2, LARGEST_GROUP + 1, 2) if shared % size == 0)
    return RoadConfig(**common, variant="road_2", group_size=group)


def _dora_config(common: dict[str, Any], layers: Mapping[str, PropulsionLayer]) -> PeftConfig:
    return LoraConfig(**common, r=1, lora_alpha=1, use_dora=True)


def _write_ia3(layer: BaseTunerLayer, gain: Tensor) -> None:
    vector = layer.ia3_l[ADAPTER]
    vector.data = gain.reshape(vector.shape).to(vector.device)


def _write_road(layer: BaseTunerLayer, gain: Tensor) -> None:
    theta, alpha = layer.road_theta[ADAPTER], layer.road_alpha[ADAPTER]
    theta.data = torch.zeros_like(gain).to(theta.device)
    alpha.data = gain.clone().to(alpha.device)


def _write_dora(layer: BaseTunerLayer, gain: Tensor) -> None:
    # It starts as the norm of the weights, and B at zero.
    magnitude = layer.lora_magnitude_vector[ADAPTER].weight
    if bool((magnitude == 0).any()):
        raise OptionError(
            "A layer has an output whose weights are all zero, and DoRA divides by their norm: choose another --format."
        )
    magnitude.data = magnitude.data * gain.to(magnitude.device)


FORMATS = {
    "peft-ia3": Format(_ia3_refusal, _ia3_config, _write_ia3),
    "peft-road": Format(_road_refusal, _road_config, _write_road),
    "peft-dora": Format(_dora_refusal, _dora_config, _write_dora),
}
"""The formats that are adapters."""
