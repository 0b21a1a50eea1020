"""New vectors from those of several adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from propulsion.config import PropulsionConfig
from propulsion.errors import ConfigError
from propulsion.layers import PropulsionLayer

COMBINATIONS = ("linear", "product")


def check_alike(layer: PropulsionLayer, name: str, config: PropulsionConfig, adapters: Sequence[str]) -> None:
    """Refuse adapters whose vectors mean something else in a layer than a configuration says.

    Args:
        layer: The steered layer.
        name: Its name in the base model.
        config: What the vectors shall be used with.
        adapters: Names; those that do not steer the layer are passed over.

    Raises:
        ConfigError: The degrees, the pooling or the training of biases differ.
    """
    wanted = config.degrees_in(name), config.pooling, config.train_bias and layer.has_bias
    for adapter in adapters:
        if adapter not in layer.propulsion_delta:
            continue
        degree, pooling = layer.propulsion_degree[adapter], layer.propulsion_pooling[adapter]
        there = degree, pooling if len(degree) > 1 else config.pooling, adapter in layer.propulsion_bias
        for field, one, other in zip(("degree", "pooling", "train_bias"), wanted, there, strict=True):
            if one != other:
                raise ConfigError(
                    f"The adapters differ in {field} for {name} ({one!r} and {other!r}): their vectors do not mean the "
                    "same."
                )


def check_in_memory(weights: Iterable[Tensor]) -> None:
    """Refuse trained weights that are offloaded, which could be neither read nor written.

    Raises:
        ConfigError: One of them is.
    """
    if any(weight.is_meta for weight in weights):
        raise ConfigError("The adapter's weights are offloaded: combine or replace adapters before that.")


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
