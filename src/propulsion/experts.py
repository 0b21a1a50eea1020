"""Mixtures of experts whose weights are stacked into one parameter: a gain for each expert and output dimension.

transformers keeps the experts of a block as parameters of shape (num_experts, d_out, d_in) or, transposed,
(num_experts, d_in, d_out), maybe with a bias of shape (num_experts, d_out) each, in a module that is called with the
tokens, the experts of each token and their weights in the sum. Such a module is wrapped once. Within, each of its
weights is a steered layer of the weight's name, whose d_out gains are those of all experts, one expert after the other.
Routers are no experts and are never steered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.func import functional_call

from propulsion.config import PropulsionConfig
from propulsion.errors import ConfigError, LayerError, MergeError
from propulsion.expert_products import Biases, StackedWeight, SteeredProducts, Table
from propulsion.inference import fixed_gain
from propulsion.layers import PropulsionLayer, SeeThrough
from propulsion.mixed_batches import names_of_rows, run_by_adapter
from propulsion.pooling import folds_into_weights
from propulsion.upstream.torch_private import SUBMODULES, is_forward_mode, is_transformed
from propulsion.upstream.transformers_private import experts_implementation, is_expert_parallel, is_own_code

WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# What multiplies by operations that can be seen; others get a scaled copy of the weights.
VISIBLE = (None, "eager", "batched_mm", "grouped_mm")


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds experts as transformers stacks them, in floating point numbers."""
    return bool(stacked_weights(module))


def holds_experts(module: nn.Module) -> bool:
    """Whether it is an experts module, steered or not."""
    return isinstance(module, SteeredExperts) or is_experts(module)


def stacked_weights(module: nn.Module) -> tuple[str, ...]:
    """The names of an experts module's stacked weights; none of any other module, or if one is quantized."""
    is_transposed, count = getattr(module, "is_transposed", None), getattr(module, "num_experts", None)
    if isinstance(module, SteeredExperts) or not isinstance(is_transposed, bool) or not isinstance(count, int):
        return ()
    parameters = dict(module.named_parameters(recurse=False))
    names = tuple(name for name in WEIGHTS if name in parameters)
    fit = all(parameters[name].dim() == 3 and parameters[name].dtype in DTYPES for name in names)
    return names if fit and "down_proj" in names and len(names) == 2 else ()


def with_expert_weights(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules by name, with a steered layer without adapters for each weight of the experts among them."""
    weights = {
        f"{name}.{weight}": ExpertWeight(m, weight) for name, m in modules.items() for weight in stacked_weights(m)
    }
    return {**modules, **weights}


class ExpertWeight(PropulsionLayer):
    """Steers the product with one stacked weight, of which `out_features` is num_experts · d_out."""

    base_class = nn.Module
    size_name = ""

    def __init__(self, experts: nn.Module, name: str) -> None:
        """Take a weight to steer.

        Args:
            experts: The module that holds it.
            name: Its attribute there.
        """
        self.weight_name, self.bias_name = name, f"{name}_bias"
        super().__init__(experts)
        self.output_dim = -1 if getattr(experts, "is_transposed", False) else -2

    def hold(self, base_layer: nn.Module) -> None:
        """Keep the experts, of which the wrapper around them is the parent."""
        self.__dict__["base_layer"] = base_layer

    @property
    def out_features(self) -> int:
        """num_experts · d_out, the number of gains."""
        return self.shape[0] * self.shape[1]

    @property
    def in_features(self) -> int:
        """d_in."""
        return int(self._stacked.shape[-3 - self.output_dim])

    @property
    def shape(self) -> tuple[int, int]:
        """(num_experts, d_out)."""
        return self._stacked.shape[0], self._stacked.shape[self.output_dim]

    @property
    def _stacked(self) -> Tensor:
        weight: Tensor = getattr(self.get_base_layer(), self.weight_name)
        return weight

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        return self._stacked.device, self._stacked.dtype

    def check_pooling(self, config: PropulsionConfig, name: str) -> None:
        """Refuse a pooling by the sign of an output to which the experts add their bias later.

        Raises:
            ConfigError: Names the weight, and what to use.
        """
        if self.has_bias and not folds_into_weights(config.pooling, config.num_vectors):
            raise ConfigError(
                f"pooling={config.pooling!r} depends on the sign of an output, and the experts of {name} add their "
                "bias to it later: use 'mean' or 'l2', or leave the experts out."
            )

    def scaled_weight(self, weight: Tensor, gain: Tensor) -> Tensor:
        """The stacked weight with gains of shape (num_experts · d_out,) folded in, in the weight's dtype."""
        merged = torch.empty_like(weight)
        for of_one, gains, result in zip(weight, gain.view(self.shape), merged, strict=True):  # wide copies of one only
            result.copy_(of_one * gains.unsqueeze(-3 - self.output_dim))
        return merged

    def of_bias(self, values: Tensor) -> Tensor:
        """Values of shape (num_experts · d_out,) by expert, as the experts' bias is."""
        return values.view(self.shape)

    def table(self, adapter_name: str) -> Table:
        """An adapter's gains by expert."""
        if (gain := fixed_gain(self, adapter_name)) is not None:
            return Table(gain.view(len(gain), *self.shape), 1)
        degree = self.propulsion_degree[adapter_name]
        if len(degree) == 1:
            return Table(self.propulsion_delta[adapter_name]().view(1, *self.shape), degree[0])
        pooled = self.pooled_gain(adapter_name)
        return Table(pooled.view(len(pooled), *self.shape), 1)

    def steered_bias(self, adapter_names: Sequence[str], bias: Tensor) -> Tensor:
        """The experts' bias of shape (num_experts, d_out), steered by adapters that have this weight."""
        result = bias
        for name in adapter_names:
            if name in self.propulsion_bias:
                result = result + self.of_bias(self.propulsion_bias[name]())
            result = result * self.table(name).gains()[0]
        return result.to(bias.dtype)


class SteeredExperts(SeeThrough, BaseTunerLayer):
    """An experts module whose weights may be steered, each by a layer of the weight's name.

    It has no vectors of its own: which adapters are active is told by the layers inside.
    """

    def __init__(self, experts: nn.Module) -> None:
        """Wrap an experts module.

        Args:
            experts: One that `is_experts`.
        """
        super().__init__()
        names = stacked_weights(experts)
        self.base_layer = experts
        self.weight_names = names
        for name in names:
            setattr(self, name, ExpertWeight(experts, name))

    @property
    def weights(self) -> list[ExpertWeight]:
        """The layers inside."""
        modules = vars(self)[SUBMODULES]
        return [modules[name] for name in self.weight_names]

    @property
    def active_adapter(self) -> str | list[str]:
        """The names of the active adapters."""
        return self.weights[0].active_adapter

    @property
    def disable_adapters(self) -> bool:
        """Whether the adapters are switched off."""
        return bool(self.weights[0].disable_adapters)

    @property
    def merged_adapters(self) -> list[str]:
        """The names of the adapters that are merged into one of the weights."""
        return list(dict.fromkeys(name for weight in self.weights for name in weight.merged_adapters))

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters, in this order."""
        for weight in self.weights:
            weight.set_adapter(adapter_names, inference_mode)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the adapters on or off."""
        for weight in self.weights:
            weight.enable_adapters(enabled)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter."""
        for weight in self.weights:
            weight.delete_adapter(adapter_name)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Nothing: PEFT goes through all modules, and merges the layers inside."""

    def unmerge(self) -> None:
        """Nothing, as for `merge`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The experts' output, of which each product is steered by the active adapters, or each row's by its own."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            for weight in self.weights:
                if weight.merged:
                    weight.unmerge()
            return self.base_layer(*args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(adapter_names, args, kwargs)
        if self.merged:
            return self.base_layer(*args, **kwargs)
        return self._forward_with(self.active_adapters, *args, **kwargs)

    def _forward_mixed(self, adapter_names: Sequence[str], args: Any, kwargs: Any) -> Any:
        """The tokens of each adapter one after the other: they are routed, so that a product's rows are of any."""
        if self.merged:
            raise MergeError("adapter_names cannot be used while adapters are merged: call unmerge_adapter() first.")
        known = {name for weight in self.weights for name in weight.propulsion_delta}
        tokens = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        names = [name if name in known else "" for name in names_of_rows(adapter_names, tokens)]
        if len(set(names)) == 1:
            return self._forward_with(names[:1], *args, **kwargs)
        return run_by_adapter(lambda name, *a, **k: self._forward_with([name], *a, **k), names, args, kwargs)

    def _forward_with(self, adapter_names: Iterable[str], *args: Any, **kwargs: Any) -> Any:
        names = list(adapter_names)
        steered = [(layer, of_layer) for layer in self.weights if (of_layer := layer.own(names))]
        if not steered:
            return self.base_layer(*args, **kwargs)
        self._check_can_be_steered()
        biases = {layer.bias_name: partial(layer.steered_bias, own) for layer, own in steered if layer.has_bias}
        weights = [self._stacked_weight(layer, own) for layer, own in steered]
        reads_program = torch.compiler.is_compiling() or is_transformed() or is_forward_mode()
        if reads_program or experts_implementation(self.base_layer) not in VISIBLE:
            return self._forward_with_copies(weights, biases, args, kwargs)
        products = SteeredProducts(self.base_layer, weights, biases)
        with products:
            output = self.base_layer(*args, **kwargs)
        if any(isinstance(value, Tensor) and value.numel() for value in (*args, *kwargs.values())):
            products.check_all_used()
        return output

    def _stacked_weight(self, layer: ExpertWeight, adapter_names: Sequence[str]) -> StackedWeight:
        # A bias is added to the product in place, or by code that is not known.
        in_place = not layer.has_bias and is_own_code(self.base_layer)
        return StackedWeight(layer.weight_name, layer.output_dim, [layer.table(n) for n in adapter_names], in_place)

    def _forward_with_copies(self, weights: Sequence[StackedWeight], biases: Biases, args: Any, kwargs: Any) -> Any:
        names = [*(weight.name for weight in weights), *biases]
        stacked = {name: getattr(self.base_layer, name) for name in names}
        if any(type(value) not in (nn.Parameter, Tensor) or value.is_meta for value in stacked.values()):
            raise LayerError(
                "These experts' weights are offloaded, sharded or quantized, and are used in a way that cannot be seen "
                "into: call model.set_experts_implementation('eager')."
            )
        scaled = {weight.name: weight.scaled(stacked[weight.name]) for weight in weights}
        steered = {name: make(stacked[name]) for name, make in biases.items()}
        return functional_call(self.base_layer, {**scaled, **steered}, args, kwargs)

    def _check_can_be_steered(self) -> None:
        if is_expert_parallel(self.base_layer):
            raise LayerError(
                "Experts that are spread over several devices cannot be steered: load the model without expert "
                "parallelism, or leave the experts out with exclude_modules."
            )

    def __repr__(self) -> str:
        return "propulsion." + super().__repr__()
