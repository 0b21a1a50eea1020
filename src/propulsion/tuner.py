"""The tuner: puts Propulsion's layers into a model, and does what PEFT asks of a method for the model as a whole."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from propulsion.adapter_files import check_adapter_tensors, vectors_to_save, with_current_name
from propulsion.config import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, ConfigError, TargetError, near_misses
from propulsion.expert_targets import match_parameters, split_experts, warn_of_unsteered, with_experts_modules
from propulsion.experts import ExpertWeight, SteeredExperts, holds_experts, with_expert_weights
from propulsion.fingerprint import check_fingerprint, fingerprint
from propulsion.heads import (
    check_heads_in_memory,
    copy_heads,
    leave_out_heads,
    leave_out_what_was_not_saved,
    train_the_whole_head,
)
from propulsion.inference import fixed_as_needed
from propulsion.injection_checks import (
    check_adapter_name,
    check_name_beside_heads,
    check_not_an_owner,
    check_not_compiled,
    check_not_in_parts,
    check_saved_shapes,
    check_targets,
    is_left_in,
    is_steered,
    preset_names,
)
from propulsion.layer_kinds import kind_of
from propulsion.layers import PropulsionLayer
from propulsion.mixed_batches import by_name, check_adapter_names, steering_each_row
from propulsion.targets import (
    ALL_LINEAR,
    give_each_its_own,
    is_preset,
    layer_index,
    leaves_outputs_alone,
)
from propulsion.upstream.peft_private import (
    device_and_dtype,
    is_placeholder,
    merged_without_warning,
    name_all_linear,
)
from propulsion.upstream.torch_private import without_compilers_name
from propulsion.vocabulary import check_embeddings, check_saved_embeddings, embeddings_to_save
from propulsion.weighted_adapters import COMBINATIONS, check_alike, check_in_memory, combine, combine_bias

# The tuner that holds a configuration, by the configuration's id; a holder that has it no longer is passed over.
_HOLDERS: weakref.WeakValueDictionary[int, PropulsionModel] = weakref.WeakValueDictionary()

WHERE = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern")


class PropulsionModel(BaseTuner):
    """A frozen model whose targeted layers' outputs are multiplied with trained vectors (paper, section 2).

    Made by `peft.get_peft_model(model, PropulsionConfig(...))`; arguments and attributes are those of PEFT's tuners.
    """

    prefix = "propulsion_"
    tuner_layer_cls = PropulsionLayer

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into a model; as PEFT's, but refuses a name that PyTorch cannot store parameters under."""
        check_adapter_name(adapter_name)
        self._take_over(self.peft_config[adapter_name])
        if kwargs.get("state_dict"):  # whose keys then say what is steered, by the names of modules
            kwargs["state_dict"] = with_experts_modules(kwargs["state_dict"])
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _take_over(self, peft_config: PropulsionConfig) -> None:
        """Leave a copy to the model that this configuration has served: what it says of its model stays true there.

        The newest model has the configuration itself, since PEFT goes on to fill in the object that it was given.
        """
        # By id: configurations are dataclasses that compare by value, and cannot be weak keys.
        holder = _HOLDERS.get(id(peft_config))
        if holder is not None and holder is not self:
            for name, held in holder.peft_config.items():
                if held is peft_config:
                    holder.peft_config[name] = copy.copy(held)
        _HOLDERS[id(peft_config)] = self

    def _prepare_adapter_config(self, peft_config: PropulsionConfig, model_config: dict[str, Any]) -> PropulsionConfig:
        if peft_config.target_modules is None and not peft_config.target_parameters:
            if "model_type" not in model_config or model_config["model_type"] == "custom":
                raise TargetError("Please specify `target_modules` in `peft_config`: this is no transformers model.")
            peft_config.target_modules = "all"
        return peft_config

    def _prepare_model(self, peft_config: PropulsionConfig, model: nn.Module) -> None:
        """Check all that can be wrong with this configuration for this model, before anything is changed."""
        if is_placeholder(peft_config.target_modules):
            return
        check_not_compiled(name for name, _ in model.named_modules())
        targets = peft_config.target_modules
        takes_all = targets in ("all", "mlp", ALL_LINEAR)
        name_all_linear(peft_config, model)
        train_the_whole_head(peft_config, model)
        if targets == ALL_LINEAR:  # what is trained whole cannot be steered as well
            leave_out_heads(peft_config)
        leave_out_what_was_not_saved(peft_config, model)
        for adapter_name in (name for name, config in self.peft_config.items() if config is peft_config):
            check_name_beside_heads(adapter_name, peft_config.modules_to_save or [], model)
        names = (
            self._preset_names(peft_config, model)
            if is_preset(peft_config.target_modules)
            else [
                name
                for name, _ in model.named_modules(remove_duplicate=False)
                if name and self._matches(peft_config, name, model)
            ]
        )
        give_each_its_own(model, names)
        modules = {name: module for name, module in model.named_modules() if name}
        named = {name: module for name, module in modules.items() if self._matches(peft_config, name, model)}
        matched = {**split_experts(named), **self._match_parameters(peft_config, modules)}
        check_targets(peft_config, modules, matched)
        check_not_in_parts(matched)
        if not peft_config.base_fingerprint:  # what has been saved with one goes on being read
            check_not_an_owner(model, matched)
        if peft_config.base_fingerprint:
            is_pretrained = hasattr(getattr(model, "config", None), "model_type")
            check_fingerprint(peft_config.base_fingerprint, with_expert_weights(modules), strict=is_pretrained)
        check_saved_shapes(peft_config, matched)
        if peft_config.saved_names is not None:
            check_saved_embeddings(peft_config.saved_names.others, model)
        peft_config.remember_base(fingerprint(matched))
        warn_of_unsteered(modules, matched, takes_all, lambda name: not is_left_in(peft_config, name, {name}))

    def _check_target_module_exists(self, peft_config: PropulsionConfig, key: str) -> Any:
        return self._matches(peft_config, key, self.model)

    def _matches(self, peft_config: PropulsionConfig, key: str, model: nn.Module) -> Any:
        """Whether a module is to be steered, as PEFT decides it; a preset stands for the full names of its modules."""
        names = self._preset_names(peft_config, model) if is_preset(peft_config.target_modules) else None
        return is_steered(peft_config, key, names, model)

    def _preset_names(self, peft_config: PropulsionConfig, model: nn.Module) -> set[str]:
        # Kept, because PEFT asks module by module, and a preset is resolved on the whole model. In __dict__, because
        # BaseTuner injects adapters in its __init__, before a subclass could set an attribute.
        known = self.__dict__.setdefault("_names_of_presets", {})
        key = (peft_config.target_modules, str(peft_config.layers_to_transform), str(peft_config.layers_pattern))
        if key not in known:
            known[key] = preset_names(peft_config, model)
        return known[key]

    def _create_and_replace(
        self,
        peft_config: PropulsionConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if holds_experts(target):
            layer = self._steered_experts(peft_config, adapter_name, target, current_key, parameter_name)
            if layer is not target:
                self._replace_module(parent, target_name, layer, target)
            return
        degree = peft_config.degrees_in(current_key)
        if isinstance(target, PropulsionLayer):
            target.update_layer(adapter_name, peft_config, degree)
            return
        layer = kind_of(target, current_key)(target, leaves_outputs_alone(self.model, current_key))
        layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config, degree)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _steered_experts(
        self, peft_config: PropulsionConfig, adapter_name: str, experts: nn.Module, key: str, weight_name: str | None
    ) -> SteeredExperts:
        """The wrapper of an experts module, new or not, with an adapter in one of its weights, or in all of them."""
        is_new = not isinstance(experts, SteeredExperts)
        wrapper = SteeredExperts(experts) if is_new else experts
        if is_new:
            wrapper.set_adapter(self.active_adapters)
        for layer in wrapper.weights:
            if weight_name in (None, layer.weight_name):
                layer.update_layer(adapter_name, peft_config, peft_config.degrees_in(f"{key}.{layer.weight_name}"))
        if is_new and adapter_name not in self.active_adapters:
            wrapper.requires_grad_(False)
        return wrapper

    def _match_parameters(self, peft_config: PropulsionConfig, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
        chosen, pattern = peft_config.layers_to_transform, peft_config.layers_pattern
        blocks = {chosen} if isinstance(chosen, int) else chosen

        def is_wanted(name: str) -> bool:
            in_blocks = blocks is None or layer_index(f"{name}.", pattern) in blocks
            return in_blocks and bool(is_left_in(peft_config, name, {name}))

        return match_parameters(peft_config.target_parameters or (), modules, is_wanted)

    def _inject_parameters(
        self, peft_config: PropulsionConfig, model: nn.Module, adapter_name: str, low_cpu_mem_usage: bool
    ) -> list[str]:
        # PEFT's own puts one wrapper around the other, in an order that decides the names in the file.
        modules = {name: module for name, module in model.named_modules() if name}
        names = list(self._match_parameters(peft_config, modules))
        for name in names:
            key, _, weight_name = name.rpartition(".")
            parent, _, child = key.rpartition(".")
            with torch.device("meta") if low_cpu_mem_usage else nullcontext():
                self._create_and_replace(
                    peft_config,
                    adapter_name,
                    model.get_submodule(key),
                    child,
                    model.get_submodule(parent),
                    key,
                    weight_name,
                )
        return names

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own also moves weights between the two, which fails on heads that have no weight of their own.
        setattr(parent, child_name, new_module)

    def _post_injection_hook(self, model: nn.Module, config: PropulsionConfig, adapter_name: str) -> None:
        if hasattr(model, "add_model_tags"):
            model.add_model_tags(["propulsion"])

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # The vectors are float32 from the start; only who asks for it gets the base layer's dtype.
        for layer in self.model.modules():
            if isinstance(layer, PropulsionLayer):
                _, dtype = device_and_dtype(layer)
                is_float = dtype is not None and dtype.is_floating_point
                layer.cast_adapter(adapter_name, dtype if is_float and not autocast_adapter_dtype else torch.float32)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            with fixed_as_needed():
                yield
            return
        if self.training:
            raise AdapterNameError(
                "Cannot pass `adapter_names` when the model is in training mode: call model.eval() first."
            )
        # PEFT passes the inputs themselves here for `generate`, and only other arguments for `forward`.
        is_generation = check_adapter_names(adapter_names, list(self.peft_config), by_name(args, kwargs))
        with fixed_as_needed(), steering_each_row(self.model, adapter_names, repeats=is_generation):
            yield

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PropulsionConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        # Not PEFT's own choice by name, which another adapter's name, if it is that of a module, can mislead.
        own = vectors_to_save(model, adapter_name, state_dict, unwanted_adapter_names)
        embeddings = embeddings_to_save(model, config, state_dict)
        state_dict.update(embeddings)  # where PEFT goes on to look for an embedding that is named as a target
        return {**own, **embeddings}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # A layer that was compiled by itself after it was given the adapter has another name in the model only.
        return str(super()._remove_adapter_name_from_key(without_compilers_name(key), adapter_name))

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PropulsionConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        named = {with_current_name(key): tensor for key, tensor in state_dict.items()}
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, named)
        suffix = f".{adapter_name}.weight"
        own = {k: v for k, v in model.state_dict().items() if cls.prefix in k and k.endswith(suffix)}
        try:
            check_adapter_tensors({k: v for k, v in remapped.items() if k in own}, own, adapter_name)
            check_embeddings(model, remapped, adapter_name)
            check_heads_in_memory(model, remapped, adapter_name)
        except AdapterFileError:
            _take_out(model, adapter_name)
            raise
        return remapped

    def _check_merge_allowed(self) -> None:
        """Nothing to warn of: a merged layer gets parameters of its own; what is tied to the old ones keeps them."""

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Fold adapters into the weights of all layers, or of none if one of them cannot be merged.

        Args:
            adapter_names: What to merge; the active adapters if not given.
            safe_merge: Refuse merged weights that are not finite.

        Raises:
            MergeError: A layer cannot be merged; the model is as it was.
        """
        self._check_known(adapter_names or ())
        layers = [module for module in self.model.modules() if isinstance(module, PropulsionLayer)]
        merged_before = {layer: list(layer.merged_adapters) for layer in layers}
        try:
            super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)
        except Exception:
            # A layer cannot give up one adapter of several, so all are taken out and those from before put back.
            for layer in layers:
                if layer.merged_adapters != merged_before[layer]:
                    layer.unmerge()
                    layer.merge(adapter_names=merged_before[layer])
            raise

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        # All layers or none, which PEFT's own loop does not promise: it merges each as it takes it out.
        if merge:
            self.merge_adapter(kwargs.get("adapter_names"), kwargs.get("safe_merge", False))
        with merged_without_warning():
            was_tied = getattr(getattr(self.model, "config", None), "tie_word_embeddings", False)
            model = super()._unload_and_optionally_merge(merge, *args, **kwargs)
        if was_tied and not model.config.tie_word_embeddings:
            _untie(model)
        return model

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters, in this order; as PEFT's, but never a name that does not exist."""
        self._check_known([adapter_name] if isinstance(adapter_name, str) else adapter_name)
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; as PEFT's, but if it was active, one of those left is then, and its head is not frozen."""
        # PEFT asks the first layer alone who is left, and leaves nobody active if the others steer other layers.
        was_active = adapter_name in self.active_adapters
        super().delete_adapter(adapter_name)
        active = self.active_adapters or list(self.peft_config)[:1]
        if was_active and active:
            self.set_adapter(active, inference_mode=all(self.peft_config[name].inference_mode for name in active))

    def _check_known(self, adapter_names: Iterable[str]) -> None:
        for name in adapter_names:
            if name not in self.peft_config:
                raise AdapterNameError(f"Adapter {name} does not exist.{near_misses(name, self.peft_config)}")

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "linear"
    ) -> None:
        """Add an adapter that is a combination of others; they need the same degrees and numbers of vectors.

        Modules that are trained in full, such as heads, are not mixed: the new adapter has a copy of those of the first
        adapter that has any, and a warning says whose.

        Args:
            adapters: The others' names.
            weights: One for each of them.
            adapter_name: The name of the new one.
            combination_type: "linear" for δ = Σ w δ, "product" for z = Π z^w.

        Raises:
            AdapterNameError: One of them does not exist, or the new name is taken.
            ConfigError: They do not fit together.
        """
        self._check_weighted(adapters, weights, adapter_name, combination_type)
        layers = {name: module for name, module in self.model.named_modules() if isinstance(module, PropulsionLayer)}
        steered = {name: layer for name, layer in layers.items() if any(a in layer.propulsion_delta for a in adapters)}
        for name, layer in steered.items():
            check_alike(layer, name, self.peft_config[adapters[0]], adapters)
            check_in_memory(layer.propulsion_delta.parameters())
        deltas = {name: combine(layer, adapters, weights, combination_type) for name, layer in steered.items()}
        if not all(torch.isfinite(delta).all() for delta in deltas.values()):
            raise ConfigError(
                f"These weights give vectors that are not finite with combination_type={combination_type!r}."
            )
        first, *others = (self.peft_config[name] for name in adapters)
        heads = [module for module in self.model.modules() if isinstance(module, ModulesToSaveWrapper)]
        owner = next((name for name in adapters if any(name in head.modules_to_save for head in heads)), None)
        modules_to_save = self.peft_config[owner].modules_to_save if owner else None
        changes: dict[str, Any] = {"modules_to_save": modules_to_save, "init_weights": True, "init_noise": 0.0}
        if any(getattr(other, field) != getattr(first, field) for other in others for field in WHERE):
            stacked = sorted(name for name, layer in steered.items() if isinstance(layer, ExpertWeight))
            changes |= {**dict.fromkeys(WHERE), "target_modules": sorted(set(steered) - set(stacked))}
            changes["target_parameters"] = stacked or None
        self.peft_config[adapter_name] = replace(first, **changes)
        try:
            self.inject_adapter(self.model, adapter_name)
        except Exception:
            del self.peft_config[adapter_name]
            raise
        for name, layer in steered.items():
            layer.propulsion_delta[adapter_name].weight.data.copy_(deltas[name])
            if adapter_name in layer.propulsion_bias:
                layer.propulsion_bias[adapter_name].weight.data.copy_(combine_bias(layer, adapters, weights))
        if owner:
            copy_heads([head for head in heads if owner in head.modules_to_save], owner, adapter_name)

    def _check_weighted(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str
    ) -> None:
        self._check_known(adapters)
        check_adapter_name(adapter_name)
        if adapter_name in self.peft_config:
            raise AdapterNameError(
                f"There is already an adapter {adapter_name!r}: choose another name, or delete it first."
            )
        if not all(isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights):
            raise ConfigError(f"weights must be finite numbers, not {weights!r}.")
        if not adapters or len(adapters) != len(weights):
            raise ConfigError(
                f"Got {len(adapters)} adapters and {len(weights)} weights: give one weight for each adapter."
            )
        if combination_type not in COMBINATIONS:
            raise ConfigError(
                f"combination_type={combination_type!r} is not one of {', '.join(COMBINATIONS)}."
                f"{near_misses(combination_type, COMBINATIONS)}"
            )


def _take_out(model: nn.Module, adapter_name: str) -> None:
    """Remove an adapter whose file was refused after its layers had been made."""
    if isinstance(model, PeftModel) and list(model.peft_config) == [adapter_name]:
        model.base_model.unload()
    elif isinstance(model, PeftModel):
        model.delete_adapter(adapter_name)


def _untie(model: nn.Module) -> None:
    """Finish what unloading has begun with the flag in the configuration, where merging has parted tied embeddings.

    A model of several parts has the flag in its `text_config` too, and transformers ties by it the output's bias and,
    in BART and T5, the embeddings of encoder and decoder: loaded without the flag, what shares a weight would lack it.
    """
    model.config.get_text_config().tie_word_embeddings = False
    head = model.get_output_embeddings()
    for embedding in (model.get_input_embeddings(), head):
        _part(model, embedding.weight)
    if getattr(head, "bias", None) is not None:
        head.bias = nn.Parameter(head.bias.detach().clone(), requires_grad=head.bias.requires_grad)


def _part(model: nn.Module, shared: nn.Parameter) -> None:
    """Give every module but the first that has this weight a copy of it."""
    names = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is shared]
    give_each_its_own(model, [name.rpartition(".")[0] for name in names])
    for name in names[1:]:
        parent, _, attribute = name.rpartition(".")
        copied = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
        setattr(model.get_submodule(parent), attribute, copied)
