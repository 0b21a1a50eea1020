"""A layer that steers the output of a frozen layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from propulsion.config import PropulsionConfig
from propulsion.errors import ConfigError, MergeError
from propulsion.gain import powers
from propulsion.inference import fixed_gain, fixed_product
from propulsion.initialization import initial_delta
from propulsion.kernels import FEW, multiply
from propulsion.merging import MergeableLayer, OriginalParameters
from propulsion.mixed_batches import names_of_rows, with_rows
from propulsion.pooling import pool, steer
from propulsion.upstream.peft_private import device_and_dtype, quantization_of
from propulsion.upstream.torch_private import SUBMODULES, is_recorded, is_watched, may_change_inputs
from propulsion.upstream.transformers_private import is_called_by_own_code
from propulsion.vectors import Beta, Delta


class SeeThrough(nn.Module):
    """A module around `base_layer` that answers for its attributes: models read in_features and the like."""

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get(SUBMODULES, ())
        if name in modules:  # at a third of the price of Module's own search, several times in each forward
            return modules[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "base_layer":
                raise
            return getattr(self.base_layer, name)


class PropulsionLayer(SeeThrough, MergeableLayer):
    """V' = (V + β) ⊙ pool(z_1^k, ..., z_p^k) for the output V of `base_layer`, for each active adapter in turn.

    What is trained is δ = z - 1, so that zero is the identity: `propulsion_delta[adapter].weight` of shape (p, d_out),
    float32. With `train_bias` there is also β, `propulsion_bias[adapter].weight` of shape (d_out,), where there is a
    bias.
    """

    adapter_layer_names = ("propulsion_delta", "propulsion_bias")
    other_param_names = ("propulsion_degree", "propulsion_pooling")

    # Filled in by the kinds of layers in `propulsion.layer_kinds`.
    base_class: type[nn.Module]  # exactly this one gives fresh memory that its backward does not read
    size_name: str  # the base layer's attribute with d_out
    input_size_name = "in_features"  # and that with d_in
    output_axis = -1  # where the base layer's output has its channels, as in `axes_after`
    weight_axis: int  # where its weight has them

    def __init__(self, base_layer: nn.Module, owns_output: bool = False) -> None:
        """Wrap a layer.

        Args:
            base_layer: The frozen layer, possibly itself wrapped by another PEFT method.
            owns_output: Nobody else keeps this layer's output or changes it in place, so that it may be overwritten.
        """
        super().__init__()
        self.hold(base_layer)
        self.propulsion_delta = nn.ModuleDict()
        self.propulsion_bias = nn.ModuleDict()
        self.propulsion_degree: dict[str, tuple[int, ...]] = {}
        self.propulsion_pooling: dict[str, str] = {}
        self.merged_adapters: list[str] = []
        self.quantization_backend = quantization_of(self.get_base_layer())
        self._owns_output = owns_output and type(base_layer) is self.base_class
        self.original_parameters: OriginalParameters | None = None
        self.register_load_state_dict_pre_hook(_rename_old_keys)

    def hold(self, base_layer: nn.Module) -> None:
        """Keep the base layer, as the submodule `base_layer`."""
        self.base_layer = base_layer

    def update_layer(self, adapter_name: str, config: PropulsionConfig, degree: Sequence[int]) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: Its name.
            config: Its configuration.
            degree: k for each of its p vectors in this layer.
        """
        size = self.out_features
        self.propulsion_degree[adapter_name] = tuple(degree)
        self.propulsion_pooling[adapter_name] = config.pooling
        self.propulsion_delta[adapter_name] = Delta(initial_delta(size, config, degree))
        if config.train_bias and self.has_bias:
            self.propulsion_bias[adapter_name] = Beta(torch.zeros(size))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def has_bias(self) -> bool:
        """Whether the base layer adds a bias to its output."""
        return getattr(self.get_base_layer(), self.bias_name, None) is not None

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
            device, _ = device_and_dtype(self)
        meta = torch.device("meta")
        for trained in self._trained(adapter_name):
            if device is not None and meta not in (device, trained.weight.device):
                trained.to(device)

    def cast_adapter(self, adapter_name: str, dtype: torch.dtype) -> None:
        """Change the dtype of an adapter's vectors; the gains are computed in float32 all the same."""
        for trained in self._trained(adapter_name):
            trained.to(dtype)

    def _trained(self, adapter_name: str) -> list[nn.Module]:
        return [of[adapter_name] for of in (self.propulsion_delta, self.propulsion_bias) if adapter_name in of]

    def set_scale(self, adapter: str, scale: float) -> None:
        """Refuse what diffusers asks of LoRA's layers: a weight for an adapter.

        Raises:
            ConfigError: The weight is not 1.
        """
        if scale != 1:
            raise ConfigError(
                f"Propulsion's adapters have no weight, so that {adapter!r} cannot have {scale}: make another "
                f"with add_weighted_adapter([{adapter!r}], [{scale}], ...)."
            )

    def scale_layer(self, scale: float) -> None:
        """As `set_scale`, for all active adapters."""
        for adapter in self.active_adapters:
            self.set_scale(adapter, scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Nothing has been scaled."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer's output, steered by the active adapters or, with `adapter_names`, each row by its own."""
        if not kwargs and (product := fixed_product(self)) is not None:
            output = product.output_of_base(x, args)
            gain = self.align(product.gain, output)
            return multiply(output, gain, out=output if self._may_overwrite(output) else None)
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(self.base_layer(x, *args, **kwargs), x, adapter_names)
        output = self.base_layer(x, *args, **kwargs)
        in_place = self._may_keep_result()
        for adapter_name in self.active_adapters:
            if adapter_name in self.propulsion_delta and adapter_name not in self.merged_adapters:
                output = self._steer(output, adapter_name, in_place, x)
                in_place, x = False, None  # the backward of the first product keeps its result
        return output

    def _may_keep_result(self) -> bool:
        """Whether the product may take the base layer's output's memory, and be kept there for the backward."""
        return self._owns_output and not self._is_watched() and is_called_by_own_code()

    def _may_overwrite(self, output: Tensor) -> bool:
        """Whether the product without gradient may take the output's memory, where that is worth asking."""
        return output.numel() >= FEW and self._owns_output and output.is_contiguous() and not self._is_watched()

    def _lookup(self, output: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The table and the ids that the output was looked up by, for nearly nothing, so that it need not be kept."""
        base_layer = self.base_layer
        is_plain = type(base_layer) is nn.Embedding and base_layer.max_norm is None  # which changes the table each time
        if x is None or not is_plain or output.requires_grad or not torch.is_grad_enabled() or self._is_watched():
            return None
        if may_change_inputs(base_layer):
            return None
        return base_layer.weight, x.clone()  # a loader may fill its buffer with the next batch before the backward

    def _steer(self, output: Tensor, adapter_name: str, in_place: bool, x: Tensor | None = None) -> Tensor:
        if adapter_name in self.propulsion_bias:
            output = (output + self.align(self.propulsion_bias[adapter_name](), output)).to(output.dtype)
        if (gain := fixed_gain(self, adapter_name)) is not None:
            return steer(output, self.align(gain, output), in_place)
        degree, lookup = self.propulsion_degree[adapter_name], self._lookup(output, x)
        if len(degree) == 1:  # its own pool: the power and its derivative belong to the product
            z = self.align(self.propulsion_delta[adapter_name](), output)
            return steer(output, z, in_place, lookup, degree[0])
        return steer(output, self.align(self.pooled_gain(adapter_name), output), in_place, lookup)

    def own(self, adapter_names: Iterable[str]) -> list[str]:
        """Those of some adapters that steer this layer."""
        return [name for name in adapter_names if name in self.propulsion_delta]

    def pooled_gain(self, adapter_name: str) -> Tensor:
        """The pooled gains of an adapter: (1, d_out), or (2, d_out) for max and min pooling."""
        gains = powers(self.propulsion_delta[adapter_name](), self.propulsion_degree[adapter_name])
        return pool(gains, self.propulsion_pooling[adapter_name])

    def _known_gain(self, adapter_name: str) -> Tensor:
        gain = fixed_gain(self, adapter_name)
        return self.pooled_gain(adapter_name) if gain is None else gain

    def align(self, values: Tensor, output: Tensor) -> Tensor:
        """(..., d_out) → (..., d_out, 1, ...), so that it meets the output's channels."""
        if self.output_axis == -1:
            return values
        return values.reshape(*values.shape, *[1] * axes_after(self.output_axis, output))

    def _forward_mixed(self, output: Tensor, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Steer each row by the adapter of its name; "__base__" and adapters without this layer leave it alone."""
        if self.merged:
            raise MergeError("adapter_names cannot be used while adapters are merged: call unmerge_adapter() first.")
        known = [name for name in dict.fromkeys(adapter_names) if name in self.propulsion_delta]
        if not known:
            return output
        in_place = self._may_keep_result()
        if len(set(adapter_names)) == 1:
            return self._steer(output, known[0], in_place)
        output = with_rows(output, x, adapter_names)
        names = names_of_rows(adapter_names, output)
        rows = torch.tensor([known.index(name) + 1 if name in known else 0 for name in names], device=output.device)
        after = axes_after(self.output_axis, output)
        shape = (len(rows), *[1] * (output.dim() - 2 - after), -1, *[1] * after)
        if any(name in self.propulsion_bias for name in known):
            zero = torch.zeros(self.out_features, device=output.device)
            biases = [self.propulsion_bias[name]() if name in self.propulsion_bias else zero for name in known]
            output = (output + torch.stack([zero, *biases])[rows].view(shape)).to(output.dtype)
        gains = [self._known_gain(name) for name in known]
        gains = [pooled.expand(max(map(len, gains)), -1) for pooled in gains]
        bank = torch.stack([torch.ones_like(gains[0]), *gains], dim=1)
        return steer(output, bank[:, rows].view(len(bank), *shape), in_place)

    def _is_watched(self) -> bool:
        """Whether somebody else may look at the base layer's output, or change what this layer makes of it."""
        return is_watched(self, self.base_layer) or is_recorded()

    def __repr__(self) -> str:
        return "propulsion." + super().__repr__()


def axes_after(axis: int, output: Tensor) -> int:
    """How many axes an output has after that of its channels.

    Args:
        axis: That of its channels: -1, -2, ... from the end, or 1 for the one after the rows, however many follow.
        output: Of a layer.
    """
    return -1 - axis if axis < 0 else output.dim() - 1 - axis


def _rename_old_keys(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Read a whole model's state of the first release, whose vectors had no `.weight` behind the adapter's name."""
    for kind in PropulsionLayer.adapter_layer_names:
        for adapter_name in getattr(layer, kind):
            old = f"{prefix}{kind}.{adapter_name}"
            if old in state_dict:
                state_dict[f"{old}.weight"] = state_dict.pop(old)
