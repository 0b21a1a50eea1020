"""A few weights of the base model, kept with an adapter, so that it is not loaded onto another model by mistake."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from propulsion.errors import BaseModelError

SAMPLED_MODULES = 4
SAMPLED_WEIGHTS = 16
TOLERANCE = 0.7  # of the sample's norm: above rounding to 3 bits or further pre-training, half of another model's √2


def fingerprint(modules: Mapping[str, nn.Module]) -> dict[str, list[float]]:
    """Sample the weights of some of the steered modules.

    Args:
        modules: The steered modules by name, before or after they are wrapped; experts' weights as the layers that
            steer them.

    Returns:
        For up to four of them, spread evenly, sixteen weights spread evenly.
    """
    # An embedding's rows change when the vocabulary is resized.
    linears = [name for name, module in modules.items() if not isinstance(_base_layer(module), nn.Embedding)]
    names = linears or list(modules)
    chosen = names[:: max(1, len(names) // SAMPLED_MODULES)][:SAMPLED_MODULES]
    samples = {name: _sample(modules[name]) for name in chosen}
    return {
        name: [float(f"{value:.6g}") for value in sample.tolist()]
        for name, sample in samples.items()
        if sample is not None
    }


def check_fingerprint(
    expected: Mapping[str, list[float]], modules: Mapping[str, nn.Module], strict: bool = True
) -> None:
    """Compare the base model that an adapter was trained on with this one.

    Args:
        expected: The adapter's fingerprint.
        modules: All modules of the model by name, with layers for the weights of experts.
        strict: Raise if the weights are others; otherwise warn. A module that is built anew from code has no identity.

    Raises:
        BaseModelError: A module is missing, or its weights are others.
    """
    for name, values in expected.items():
        if name not in modules:
            raise BaseModelError(
                f"This adapter was trained on a model with a module {name!r}, which this model lacks: load it onto the "
                "base model named in its adapter_config.json, with the same kind of head."
            )
        sample, reference = _sample(modules[name]), torch.tensor(values)
        if sample is None or not reference.isfinite().all():
            continue
        if sample.shape != reference.shape or (sample - reference).norm() > TOLERANCE * reference.norm():
            message = (
                f"This adapter was trained on another base model: the weights of {name!r} are others. Load it onto the "
                "model named in its adapter_config.json, or set base_fingerprint to null there if this is meant."
            )
            if strict:
                raise BaseModelError(message)
            warnings.warn(message, stacklevel=2)


def _sample(module: nn.Module) -> Tensor | None:
    """Some weights in float32; None where they cannot be read: quantized, sharded, or not there yet."""
    original = getattr(module, "original_parameters", None)
    name = getattr(module, "weight_name", "weight") if isinstance(module, BaseTunerLayer) else "weight"
    weight = original.weight if original is not None else getattr(_base_layer(module), name, None)
    if (
        not isinstance(weight, nn.Parameter)
        or type(weight) is not nn.Parameter
        or not weight.is_floating_point()
        or weight.is_meta
        or not weight.numel()
    ):
        return None
    positions = torch.linspace(0, weight.numel() - 1, SAMPLED_WEIGHTS, dtype=torch.float64).long()
    flat = weight.detach().reshape(-1) if weight.is_contiguous() else weight.detach().flatten()
    return flat[positions.to(weight.device)].float().cpu()


def _base_layer(module: nn.Module) -> nn.Module:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
