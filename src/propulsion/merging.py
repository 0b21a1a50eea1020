"""Folding vectors into the weights of the layers that they steer, and taking them out again bit for bit."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from propulsion.errors import MergeError
from propulsion.pooling import folds_into_weights
from propulsion.upstream.peft_private import is_four_bit


class MergeableLayer(BaseTunerLayer):
    """What a steering layer does about merging; `propulsion.layers.PropulsionLayer` has the rest.

    The original parameters are kept aside and put back, never recomputed.
    """

    base_layer: nn.Module
    propulsion_delta: nn.ModuleDict
    propulsion_bias: nn.ModuleDict
    propulsion_degree: dict[str, tuple[int, ...]]
    propulsion_pooling: dict[str, str]
    weight_axis: int
    weight_name, bias_name = "weight", "bias"  # the base layer's attributes
    merged_adapters: list[str]
    original_parameters: OriginalParameters | None

    def pooled_gain(self, adapter_name: str) -> Tensor:
        """As `PropulsionLayer.pooled_gain`."""
        raise NotImplementedError

    def check_mergeable(self, adapter_name: str) -> None:
        """Refuse to merge what cannot be folded into the base layer's weights.

        Raises:
            MergeError: Says why and what to do instead.
        """
        base_layer, delta = self.get_base_layer(), self.propulsion_delta[adapter_name].weight
        if isinstance(self.base_layer, BaseTunerLayer):
            raise MergeError("Another PEFT method steers this layer below Propulsion: merge or unload that one first.")
        pooling = self.propulsion_pooling[adapter_name]
        if not folds_into_weights(pooling, len(delta)):
            raise MergeError(
                f"pooling={pooling!r} gives outputs of either sign a gain of their own, which no weight can do: leave "
                f"the adapter {adapter_name!r} unmerged, or train with pooling='mean' or 'l2'."
            )
        if is_four_bit(self.quantization_backend) and base_layer.weight.device.type == "cpu":
            raise MergeError(
                "4-bit weights on the CPU are repacked at the first forward pass, so that merging into them would be "
                "wrong: merge into the model loaded without load_in_4bit, or on a GPU."
            )
        if self.quantization_backend is not None and not self.quantization_backend.supports_merge:
            raise MergeError(
                f"Weights quantized by {self.quantization_backend.backend_name} cannot be merged into: leave "
                "the adapter unmerged."
            )
        if getattr(base_layer, self.weight_name, None) is None:
            raise MergeError(
                f"{type(base_layer).__name__} has no weight to fold the vectors into: leave the adapter unmerged."
            )
        if self.quantization_backend is None and self.weight_name not in dict(
            base_layer.named_parameters(recurse=False)
        ):
            raise MergeError(
                f"The weight of this {type(base_layer).__name__} is computed from other tensors (weight norm?): leave "
                "the adapter unmerged, or remove the parametrization first."
            )
        if getattr(base_layer, "max_norm", None) is not None:
            raise MergeError("An embedding with max_norm rescales its weights itself: leave the adapter unmerged.")

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the base layer's weight and bias; the originals are kept, so that `unmerge` is exact.

        Args:
            safe_merge: Refuse a result that is not finite.
            adapter_names: What to merge; the active adapters if not given.

        Raises:
            MergeError: This layer cannot be merged; nothing has been changed.
        """
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.propulsion_delta]
        if not adapter_names:
            return
        for name in adapter_names:
            self.check_mergeable(name)
        base_layer = self.get_base_layer()
        weight, bias = self._merged_values(adapter_names)
        for value in (weight, bias):
            if safe_merge and value is not None and not torch.isfinite(value).all():
                raise MergeError(
                    f"NaNs detected in the merged weights. The adapter {', '.join(adapter_names)} seems to be broken: "
                    "nothing was merged."
                )
        if self.original_parameters is None:
            self.original_parameters = OriginalParameters.of(base_layer, self.weight_name, self.bias_name)
        self._set_merged(weight, bias)
        self.merged_adapters.extend(adapter_names)

    def _merged_values(self, adapter_names: list[str]) -> tuple[Tensor, Tensor | None]:
        """The base layer's weight and bias with more adapters folded in, computed in float32 and rounded once."""
        base_layer, original = self.get_base_layer(), self.original_parameters
        if self.quantization_backend is not None:
            base_weight, base_bias = self.get_base_weight(), self._base_bias()
        elif original is not None:
            # From the originals, not from the merged weight, so that a second merge does not round a second time.
            follow(original.weight, getattr(base_layer, self.weight_name))
            adapter_names = [*self.merged_adapters, *adapter_names]
            base_weight, base_bias = original.weight.data, original.bias
        else:
            base_weight, base_bias = getattr(base_layer, self.weight_name).data, self._base_bias()
        gain, bias = torch.ones((), device=base_weight.device), None if base_bias is None else base_bias.data
        for name in adapter_names:
            (pooled,) = self.pooled_gain(name).detach()
            gain = gain * pooled
            if bias is not None:
                beta = self.of_bias(self.propulsion_bias[name].weight.data) if name in self.propulsion_bias else None
                bias = folded_bias(bias, self.of_bias(pooled), beta)
        merged_bias = None if bias is None or base_bias is None else bias.to(base_bias.dtype)
        return self.scaled_weight(base_weight, gain), merged_bias

    def of_bias(self, values: Tensor) -> Tensor:
        """Values of shape (d_out,) as they meet the base layer's bias."""
        return values

    def scaled_weight(self, weight: Tensor, gain: Tensor) -> Tensor:
        """The weight with a gain of shape (d_out,) folded in, in the weight's dtype."""
        return folded_weight(weight, gain, self.weight_axis)

    def _base_bias(self) -> nn.Parameter | None:
        return getattr(self.get_base_layer(), self.bias_name, None)

    def _set_merged(self, weight: Tensor, bias: Tensor | None) -> None:
        # A new Parameter instead of a new value: whoever is tied to the old one keeps it.
        base_layer = self.get_base_layer()
        if self.quantization_backend is not None:
            self.set_base_weight(weight)
        else:
            _renew(base_layer, self.weight_name, weight)
        if bias is not None:
            _renew(base_layer, self.bias_name, bias)

    def unmerge(self) -> None:
        """Put the base layer's original parameters back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.merged_adapters.clear()
        self.original_parameters.restore(self.get_base_layer(), self.weight_name, self.bias_name)  # type: ignore[union-attr]
        self.original_parameters = None


def folded_weight(weight: Tensor, gain: Tensor, axis: int) -> Tensor:
    """A weight with the gains of its outputs folded in, computed in float32 and rounded once.

    Args:
        weight: Of any shape, with d_out on one axis.
        gain: s, of shape (d_out,) or, for all outputs alike, ().
        axis: That of the outputs.

    Returns:
        W ⊙ s, of the shape and the dtype of the weight.
    """
    shape = [1] * weight.dim()
    shape[axis] = -1
    return (weight * gain.view(shape)).to(weight.dtype)


def folded_bias(bias: Tensor, gain: Tensor, beta: Tensor | None) -> Tensor:
    """A bias b with gains s and a trained bias β folded in: (b + β) ⊙ s, all of shape (d_out,), not rounded."""
    return (bias if beta is None else bias + beta) * gain


class OriginalParameters(NamedTuple):
    """What a base layer had before adapters were merged into it."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    quantization_state: dict[str, Any]  # of bitsandbytes' 8-bit layers, which move their weights into it

    @classmethod
    def of(cls, base_layer: nn.Module, weight_name: str, bias_name: str) -> OriginalParameters:
        state = getattr(base_layer, "state", None)
        weight, bias = getattr(base_layer, weight_name), getattr(base_layer, bias_name, None)
        return cls(weight, bias, dict(vars(state)) if state is not None else {})

    def restore(self, base_layer: nn.Module, weight_name: str, bias_name: str) -> None:
        for name, original in ((weight_name, self.weight), (bias_name, self.bias)):
            if original is not None:
                follow(original, getattr(base_layer, name))
                setattr(base_layer, name, original)
        if self.quantization_state:
            vars(base_layer.state).update(self.quantization_state)


def _renew(base_layer: nn.Module, name: str, value: Tensor) -> None:
    setattr(base_layer, name, nn.Parameter(value, requires_grad=getattr(base_layer, name).requires_grad))


def follow(parameter: nn.Parameter, current: Tensor) -> None:
    """Move a parameter that was set aside to where the model has gone since; without a move its bits stay."""
    if parameter.device != current.device or (parameter.dtype.is_floating_point and parameter.dtype != current.dtype):
        parameter.data = parameter.data.to(current.device, current.dtype)
