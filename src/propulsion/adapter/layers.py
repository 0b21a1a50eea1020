"""Layers that steer the output of a frozen layer: one class with the behaviour, one short one for each kind of layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import Bnb4bitBackend, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D as TransformersConv1D

from propulsion.adapter.config import PropulsionConfig
from propulsion.adapter.gain import gain
from propulsion.adapter.initialization import initial_delta
from propulsion.adapter.mixed_batch import names_of_rows
from propulsion.adapter.pooling import folds_into_weights, pool, steer
from propulsion.errors import AdapterNameError, LayerError, MergeError

class PropulsionLayer(nn.Module, BaseTunerLayer):
    """V' = (V + β) ⊙ pool(z_1^k, ..., z_p^k) for the output V of `base_layer`, for each active adapter in turn.

    The parameter is δ = z - 1, so that zero is the identity: `propulsion_delta`, of shape (p, d_out), float32. With
    `train_bias` there is also `propulsion_bias`, β of shape (d_out,), for base layers that have a bias.
    """

    adapter_layer_names = ("propulsion_delta", "propulsion_bias")
    other_param_names = ("propulsion_degree", "propulsion_pooling")

    # Filled in by the kinds of layers below.
    size_name: str  # the base layer's attribute with d_out
    input_size_name = "in_features"  # and that with d_in
    output_axis = -1  # where the base layer's output has its channels, counted from the end
    weight_axis: int  # where its weight has them

    def __init__(self, base_layer: nn.Module, owns_output: bool = False) -> None:
        """Wrap a layer.

        Args:
            base_layer: The frozen layer, possibly itself wrapped by another PEFT method.
            owns_output: Nobody else keeps this layer's output or changes it in place, so that it may be overwritten.
        """
        super().__init__()
        self.base_layer = base_layer
        self.propulsion_delta = nn.ParameterDict()
        self.propulsion_bias = nn.ParameterDict()
        self.propulsion_degree: dict[str, tuple[int, ...]] = {}
        self.propulsion_pooling: dict[str, str] = {}
        self.merged_adapters: list[str] = []
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer())
        self._disable_adapters = False
        self._owns_output = owns_output and type(base_layer) in FRESH_OUTPUT
        self._original: _Original | None = None

    def __getattr__(self, name: str) -> Any:
        # Models read in_features, padding_idx, embed_scale and the like of their layers.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def update_layer(self, adapter_name: str, config: PropulsionConfig, degree: Sequence[int]) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            degree: k for each of its p vectors in this layer.
        """
        base_layer = self.get_base_layer()
        size = self.out_features
        self.propulsion_degree[adapter_name] = tuple(degree)
        self.propulsion_pooling[adapter_name] = config.pooling
        self.propulsion_delta[adapter_name] = nn.Parameter(initial_delta(size, config, degree))
        if config.train_bias and getattr(base_layer, "bias", None) is not None:
            self.propulsion_bias[adapter_name] = nn.Parameter(torch.zeros(size))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def out_features(self) -> int:
        """d_out, the number of gains."""
        size = getattr(self.get_base_layer(), self.size_name)
        return size[-1] if isinstance(size, tuple) else size

    @property
    def in_features(self) -> int:
        """d_in, as PEFT's other layers tell it."""
        return getattr(self.get_base_layer(), self.input_size_name, self.out_features)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # Unlike PEFT's other methods, without casting to the base layer's dtype: z = 1.001 is 1 in bfloat16.
        if device is None:
            device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        meta = torch.device("meta")
        for parameters in (self.propulsion_delta, self.propulsion_bias):
            if device is not None and adapter_name in parameters and meta not in (device, parameters[adapter_name].device):
                parameters[adapter_name] = nn.Parameter(parameters[adapter_name].data.to(device))

    def cast_adapter(self, adapter_name: str, dtype: torch.dtype) -> None:
        """Change the dtype of an adapter's vectors; the gains are computed in float32 all the same."""
        for parameters in (self.propulsion_delta, self.propulsion_bias):
            if adapter_name in parameters:
                old = parameters[adapter_name]
                parameters[adapter_name] = nn.Parameter(old.data.to(dtype), requires_grad=old.requires_grad)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output, steered by the active adapters or, with `adapter_names`, by one of its own per row."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(self.base_layer(x, *args, **kwargs), x, adapter_names)
        output = self.base_layer(x, *args, **kwargs)
        if self.merged:
            return output
        in_place = self._owns_output and not _is_watched(self.base_layer)
        for adapter_name in self.active_adapters:
            if adapter_name in self.propulsion_delta:
                output = self._steer(output, adapter_name, in_place)
                in_place = False  # the backward of the first product keeps its result
        return output

    def _steer(self, output: Tensor, adapter_name: str, in_place: bool) -> Tensor:
        pooled = self.pooled_gain(adapter_name)
        if adapter_name in self.propulsion_bias:
            output = (output + self._align(self.propulsion_bias[adapter_name])).to(output.dtype)
        return steer(output, self._align(pooled), in_place)

    def pooled_gain(self, adapter_name: str) -> Tensor:
        """The pooled gains of an adapter: (1, d_out), or (2, d_out) for max and min pooling."""
        gains = gain(self.propulsion_delta[adapter_name], self.propulsion_degree[adapter_name])
        return pool(gains, self.propulsion_pooling[adapter_name])

    def _align(self, vectors: Tensor) -> Tensor:
        """(..., d_out) → (..., d_out, 1, ...), so that it meets the output's channels."""
        return vectors if self.output_axis == -1 else vectors.reshape(*vectors.shape, *[1] * (-1 - self.output_axis))

    def _forward_mixed(self, output: Tensor, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Steer each row of the batch by the adapter of its name; "__base__" and adapters without this layer leave it."""
        if self.merged:
            raise MergeError("adapter_names cannot be used while adapters are merged: call unmerge_adapter() first.")
        known = [name for name in dict.fromkeys(adapter_names) if name in self.propulsion_delta]
        if not known:
            return output
        in_place = self._owns_output and not _is_watched(self.base_layer)
        if len(set(adapter_names)) == 1:
            return self._steer(output, known[0], in_place)
        if x.dim() < 2:
            raise AdapterNameError(f"A layer saw an input of shape {tuple(x.shape)}, whose rows cannot be told: run the adapters one by one.")
        names = names_of_rows(adapter_names, output)
        rows = torch.tensor([known.index(name) + 1 if name in known else 0 for name in names], device=output.device)
        shape = (len(rows), *[1] * (output.dim() - 1 + self.output_axis), -1, *[1] * (-1 - self.output_axis))
        if any(name in self.propulsion_bias for name in known):
            zero = torch.zeros(self.out_features, device=output.device)
            biases = [self.propulsion_bias[name] if name in self.propulsion_bias else zero for name in known]
            output = (output + torch.stack([zero, *biases])[rows].view(shape)).to(output.dtype)
        gains = [self.pooled_gain(name) for name in known]
        gains = [gain.expand(max(map(len, gains)), -1) for gain in gains]
        bank = torch.stack([torch.ones_like(gains[0]), *gains], dim=1)
        return steer(output, bank[:, rows].view(len(bank), *shape), in_place)

    def check_mergeable(self, adapter_name: str) -> None:
        """Refuse to merge what cannot be folded into the base layer's weights.

        Raises:
            MergeError: Says why and what to do instead.
        """
        base_layer, delta = self.get_base_layer(), self.propulsion_delta[adapter_name]
        pooling = self.propulsion_pooling[adapter_name]
        if not folds_into_weights(pooling, len(delta)):
            raise MergeError(
                f"pooling={pooling!r} gives outputs of either sign a gain of their own, which no weight can do: leave the "
                f"adapter {adapter_name!r} unmerged, or train with pooling='mean' or 'l2'."
            )
        if isinstance(self.quantization_backend, Bnb4bitBackend) and base_layer.weight.device.type == "cpu":
            raise MergeError(
                "4-bit weights on the CPU are repacked at the first forward pass, so that merging into them would be wrong: "
                "merge into the model loaded without load_in_4bit, or on a GPU."
            )
        if self.quantization_backend is not None and not self.quantization_backend.supports_merge:
            raise MergeError(
                f"Weights quantized by {self.quantization_backend.backend_name} cannot be merged into: leave the adapter unmerged."
            )
        if getattr(base_layer, "weight", None) is None:
            raise MergeError(f"{type(base_layer).__name__} has no weight to fold the vectors into: leave the adapter unmerged.")
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
                    f"NaNs detected in the merged weights. The adapter {', '.join(adapter_names)} seems to be broken: nothing was merged."
                )
        if self._original is None:
            self._original = _Original.of(base_layer)
        self._set_merged(weight, bias)
        self.merged_adapters.extend(adapter_names)

    def _merged_values(self, adapter_names: list[str]) -> tuple[Tensor, Tensor | None]:
        """The base layer's weight and bias with more adapters folded in, computed in float32 or wider and rounded once."""
        base_layer, original = self.get_base_layer(), self._original
        if original is not None and self.quantization_backend is None:
            adapter_names = [*self.merged_adapters, *adapter_names]
            base_weight, base_bias = original.weight.data, original.bias
        else:
            base_weight, base_bias = self.get_base_weight(), getattr(base_layer, "bias", None)
        total, bias = torch.ones((), device=base_weight.device), None if base_bias is None else base_bias.data
        for name in adapter_names:
            (pooled,) = self.pooled_gain(name).detach()
            total = total * pooled
            if bias is not None:
                bias = (bias + self.propulsion_bias[name].data if name in self.propulsion_bias else bias) * pooled
        shape = [1] * base_weight.dim()
        shape[self.weight_axis] = -1
        weight = (base_weight * total.view(shape)).to(base_weight.dtype)
        return weight, None if bias is None else bias.to(base_bias.dtype)

    def _set_merged(self, weight: Tensor, bias: Tensor | None) -> None:
        # A new Parameter instead of a new value: whoever is tied to the old one keeps it.
        base_layer = self.get_base_layer()
        if self.quantization_backend is not None:
            self.set_base_weight(weight)
        else:
            base_layer.weight = nn.Parameter(weight, requires_grad=base_layer.weight.requires_grad)
        if bias is not None:
            base_layer.bias = nn.Parameter(bias, requires_grad=base_layer.bias.requires_grad)

    def unmerge(self) -> None:
        """Put the base layer's original parameters back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.merged_adapters.clear()
        self._original.restore(self.get_base_layer())  # type: ignore[union-attr]
        self._original = None

    def __repr__(self) -> str:
        return "propulsion." + super().__repr__()


class _Original(NamedTuple):
    """What a base layer had before adapters were merged into it."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    quantization_state: dict[str, Any]  # of bitsandbytes' 8-bit layers, which move their weights into it

    @classmethod
    def of(cls, base_layer: nn.Module) -> _Original:
        state = getattr(base_layer, "state", None)
        return cls(base_layer.weight, getattr(base_layer, "bias", None), dict(vars(state)) if state is not None else {})

    def restore(self, base_layer: nn.Module) -> None:
        base_layer.weight = self.weight
        if self.bias is not None:
            base_layer.bias = self.bias
        if self.quantization_state:
            vars(base_layer.state).update(self.quantization_state)


class Linear(PropulsionLayer):
    """Steers nn.Linear, of which bitsandbytes' 8- and 4-bit layers are kinds."""

    size_name, weight_axis = "out_features", 0


class Conv1D(PropulsionLayer):
    """Steers transformers' Conv1D, a linear layer whose weight is transposed."""

    size_name, input_size_name, weight_axis = "nf", "nx", 1


class Embedding(PropulsionLayer):
    """Steers nn.Embedding."""

    size_name, input_size_name, weight_axis = "embedding_dim", "num_embeddings", 1


class LayerNorm(PropulsionLayer):
    """Steers nn.LayerNorm, in the last of the dimensions that it normalises."""

    size_name, weight_axis = "normalized_shape", -1


class Conv1d(PropulsionLayer):
    """Steers nn.Conv1d by channel."""

    size_name, input_size_name, weight_axis, output_axis = "out_channels", "in_channels", 0, -2


class Conv2d(PropulsionLayer):
    """Steers nn.Conv2d by channel."""

    size_name, input_size_name, weight_axis, output_axis = "out_channels", "in_channels", 0, -3


class Conv3d(PropulsionLayer):
    """Steers nn.Conv3d by channel."""

    size_name, input_size_name, weight_axis, output_axis = "out_channels", "in_channels", 0, -4


KINDS: dict[type[nn.Module], type[PropulsionLayer]] = {
    nn.Linear: Linear,
    TransformersConv1D: Conv1D,
    nn.Embedding: Embedding,
    nn.LayerNorm: LayerNorm,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
}
# Exactly these, not their subclasses: their forward gives fresh memory that their backward does not read.
FRESH_OUTPUT = frozenset(KINDS)


def kind_of(module: nn.Module, name: str) -> type[PropulsionLayer]:
    """The class that steers a module.

    Args:
        module: A layer, or one that PEFT has wrapped.
        name: Its name, for the error message.

    Raises:
        LayerError: Layers like this cannot be steered; says what to target instead.
    """
    base_layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    class_name = type(base_layer).__name__
    if class_name == "NonDynamicallyQuantizableLinear":
        raise LayerError(f"{name} belongs to nn.MultiheadAttention, which does not call its forward: leave it out of target_modules.")
    if "RMSNorm" in class_name:
        raise LayerError(
            f"{name} is a {class_name}: some of these multiply with 1 + weight, so that it cannot be merged; target the linear layers after it."
        )
    for base_class, kind in KINDS.items():
        if isinstance(base_layer, base_class):
            return kind
    backend = resolve_quantization_backend(base_layer)
    if backend is not None and backend.layer_type == "linear":
        return Linear
    supported = ", ".join(base_class.__name__ for base_class in KINDS)
    raise LayerError(f"{name} is a {class_name}, which cannot be steered: target layers that are {supported} or quantized linears.")


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody looks at this module's output besides the layer that wraps it."""
    return bool(
        module._forward_hooks
        or module._backward_hooks
        or torch.nn.modules.module._global_forward_hooks
        or torch.nn.modules.module._global_backward_hooks
    )
