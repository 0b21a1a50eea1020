"""New vectors from those of several adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from propulsion.errors import ConfigError
from propulsion.layers import PropulsionLayer

COMBINATIONS = ("linear", "product")


def combine(layer: PropulsionLayer, adapters: Sequence[str], weights: Sequence[float], combination_type: str) -> Tensor:
    """δ of the combination of adapters in one layer; an adapter without this layer is the identity there.

    Args:
        layer: The steered layer.
        adapters: Their names.
        weights: One for each.
        combination_type: "linear" for Σ w δ, "product" for Π z^w - 1.

    Returns:
        Shape (p, d_out).

    Raises:
        ConfigError: A product with a fractional power of a z that is not positive.
    """
    deltas = [
        (layer.propulsion_delta[name].weight.detach(), weight)
        for name, weight in zip(adapters, weights, strict=True)
        if name in layer.propulsion_delta
    ]
    if combination_type == "linear":
        return sum((weight * delta for delta, weight in deltas), start=torch.zeros_like(deltas[0][0]))
    product = torch.ones_like(deltas[0][0])
    for delta, weight in deltas:
        if (delta <= -1).any() and weight != round(weight):
            raise ConfigError(
                f"combination_type='product' takes z to the power {weight}, but some z are not positive: use 'linear'."
            )
        product = product * (1 + delta).pow(weight)
    return product - 1


def combine_bias(layer: PropulsionLayer, adapters: Sequence[str], weights: Sequence[float]) -> Tensor:
    """β of the combination, Σ w β, of shape (d_out,)."""
    parts = [
        weight * layer.propulsion_bias[name].weight.detach()
        for name, weight in zip(adapters, weights, strict=True)
        if name in layer.propulsion_bias
    ]
    return sum(parts[1:], start=parts[0])
