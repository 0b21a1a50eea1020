"""An adapter as the bank keeps it: ready gains in one piece of memory, and the modules that were trained whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from peft import PeftConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import Tensor, nn

from propulsion.adapter_files import BIAS, DELTA, is_of_the_vocabulary, is_vector, split_key, with_current_name
from propulsion.config import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, BaseModelError, ConfigError, LayerError
from propulsion.experts import ExpertWeight, is_experts
from propulsion.fingerprint import check_fingerprint
from propulsion.gain import in_full, powers
from propulsion.heads import is_saved_whole, leave_out_what_was_not_saved
from propulsion.injection_checks import has_bias, is_steered, preset_names
from propulsion.layer_kinds import kind_of
from propulsion.layers import PropulsionLayer
from propulsion.pooling import pool
from propulsion.targets import is_preset
from propulsion.upstream.peft_private import name_all_linear, name_in_base
from propulsion.upstream.torch_private import powers_of_each
from propulsion.vocabulary import check_saved_embeddings, own_embeddings

Part = Literal["gain", "negative", "bias"]  # of max and min pooling, "negative" is the gain of outputs < 0


class Column(NamedTuple):
    """One vector of an adapter: of which layer it is, what it is there, and how long."""

    layer: str
    part: Part
    size: int


Layout = tuple[Column, ...]
Heads = dict[str, dict[str, Tensor]]  # by the module's name in the base model, then by the parameter's in the module


@dataclass(frozen=True)
class Adapter:
    """One adapter, read and checked.

    Attributes:
        layout: Its vectors, in the order of their values; equal layouts are the same object.
        values: Float32 of shape (Σ sizes,): gains z^k, pooled, and biases.
        heads: What was trained whole.
        labels: How many its head has; None without a head.
    """

    layout: Layout
    values: Tensor
    heads: Heads
    labels: int | None


@dataclass
class Base:
    """The model that adapters are read for, with what was learnt of it while reading."""

    model: nn.Module
    modules: dict[str, nn.Module] = field(init=False)
    state: dict[str, Tensor] = field(init=False)
    _steered: dict[str, set[str]] = field(default_factory=dict)
    _layouts: dict[Layout, Layout] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _fingerprints: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.modules = {name: module for name, module in self.model.named_modules() if name}
        self.state = self.model.state_dict()

    @property
    def labels(self) -> int | None:
        """The number of labels of the base model's own head, if it has one."""
        return getattr(getattr(self.model, "config", None), "num_labels", None)

    def read(self, folder: str) -> Adapter:
        """Read a folder that PEFT has saved an adapter to.

        Raises:
            ConfigError: It is no adapter of Propulsion.
            AdapterFileError: It is damaged, incomplete, not finite, or only there as a pickle.
            BaseModelError: It belongs to another base model.
            LayerError: It steers experts' stacked weights, or trains an embedding.
        """
        config = _config_in(folder)
        path = os.path.join(folder, SAFETENSORS_WEIGHTS_NAME)
        if not os.path.isfile(path):
            raise AdapterFileError(
                f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}: save the adapter with PEFT, unpickled."
            )
        # The file has been checked while its configuration was read, key by key.
        saved = {name_in_base(with_current_name(key)): tensor for key, tensor in load_file(path).items()}
        self._check_can_be_held(config, (split_key(key)[0] for key in saved))
        saved = self._without_embeddings(config, saved)
        self._check_base(config)
        leave_out_what_was_not_saved(config, self.model)
        self._check_layers(config, saved)
        vectors, heads = self._sorted(config, saved)
        return self._built(config, vectors, heads)

    def take(self, model: PeftModel) -> Adapter:
        """The active adapter of a model, copied.

        Raises:
            AdapterNameError: There is not exactly one.
            ConfigError: It is not Propulsion's.
            BaseModelError: It belongs to another base model.
            LayerError: It steers experts' stacked weights, or trains an embedding.
        """
        if not isinstance(model, PeftModel):
            raise ConfigError(f"bank.add takes a PeftModel, not a {type(model).__name__}: bank.load reads a folder.")
        active = model.active_adapters
        if len(active) != 1:
            raise AdapterNameError(f"A row of the bank is one adapter, and active are {active}: activate one of them.")
        config = model.peft_config[active[0]]
        if not isinstance(config, PropulsionConfig):
            raise ConfigError(f"{active[0]!r} is an adapter of {config.peft_type.value}, and not of Propulsion.")
        inner = dict(model.get_base_model().named_modules())
        steered = (name for name, m in inner.items() if isinstance(m, ExpertWeight) and active[0] in m.propulsion_delta)
        self._check_can_be_held(config, steered)
        embeddings, _ = own_embeddings(model, config, model.state_dict())
        self._check_embeddings({name_in_base(key): tensor for key, tensor in embeddings.items()})
        self._check_base(config, config.to_dict()["base_fingerprint"])
        vectors, heads = {}, {}
        for name, module in inner.items():
            if isinstance(module, PropulsionLayer) and active[0] in module.propulsion_delta:
                vectors[f"{name}.{DELTA}"] = module.propulsion_delta[active[0]].weight.detach().cpu()
                if active[0] in module.propulsion_bias:
                    vectors[f"{name}.{BIAS}"] = module.propulsion_bias[active[0]].weight.detach().cpu()
            elif isinstance(module, ModulesToSaveWrapper) and active[0] in module.modules_to_save:
                state = module.modules_to_save[active[0]].state_dict()
                heads[name] = {key: value.detach().cpu().clone() for key, value in state.items()}
        return self._built(config, vectors, heads)

    def _check_can_be_held(self, config: PropulsionConfig, steered: Iterable[str]) -> None:
        """Refuse gains of experts, whose tokens come in an order of their own, not row by row."""
        modules = self.modules
        stacks = [name for name in steered if (at := name.rpartition(".")[0]) in modules and is_experts(modules[at])]
        if stacked := stacks or config.target_parameters:
            raise LayerError(
                f"The adapter steers stacked weights of experts ({next(iter(stacked))}), which a bank cannot: load it "
                "with PeftModel, which takes adapter_names as well, or train it with exclude_modules for the experts."
            )

    def _without_embeddings(self, config: PropulsionConfig, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was saved without embeddings that are this model's own."""
        whole = config.modules_to_save or ()
        embeddings = {
            key: tensor
            for key, tensor in saved.items()
            if not is_vector(key) and is_of_the_vocabulary(key) and not is_saved_whole(key.rpartition(".")[0], whole)
        }
        self._check_embeddings(embeddings)
        return {key: tensor for key, tensor in saved.items() if key not in embeddings}

    def _check_embeddings(self, embeddings: Mapping[str, Tensor]) -> None:
        """Refuse an embedding, or an output layer that was not trained as a head, with values of its own."""
        check_saved_embeddings({key: tuple(tensor.shape) for key, tensor in embeddings.items()}, self.model)
        for key, tensor in embeddings.items():
            own = self.state.get(key.replace(".base_layer.", "."))
            if own is None or own.shape != tensor.shape or not tensor.to(own).equal(own):
                raise LayerError(
                    f"The adapter has an embedding of its own, {key}, which all rows of a bank share: load it with "
                    "PeftModel into a base model of its own."
                )

    def _check_base(self, config: PropulsionConfig, expected: Any = None) -> None:
        expected = expected or config.base_fingerprint
        if expected and repr(expected) not in self._fingerprints:  # most adapters of a bank have the same
            check_fingerprint(expected, self.modules)
            self._fingerprints.add(repr(expected))

    def steered_by(self, config: PropulsionConfig) -> set[str]:
        """The names of the layers that a configuration steers in this model."""
        fields = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
        saved = config.saved_names
        values = [*(getattr(config, name) for name in fields), bool(saved and saved.shapes)]
        key = repr([sorted(value) if isinstance(value, set) else value for value in values])
        if key not in self._steered:
            if config.target_modules is None:
                config.target_modules = "all"
            name_all_linear(config, self.model)
            names = preset_names(config, self.model) if is_preset(config.target_modules) else None
            self._steered[key] = {name for name in self.modules if is_steered(config, name, names, self.model)}
        return self._steered[key]

    def _check_layers(self, config: PropulsionConfig, saved: Mapping[str, Tensor]) -> None:
        has = {split_key(key)[0] for key in saved if split_key(key)[1] == DELTA}
        wanted = self.steered_by(config)
        if missing := sorted(wanted - has):
            raise AdapterFileError(
                f"The adapter has no vector for {missing[0]}: its file is incomplete, or of another model."
            )
        if more := sorted(has - wanted):
            raise BaseModelError(
                f"The adapter steers {more[0]}, which its configuration does not mean in this model: load it onto the "
                "base model named in its adapter_config.json."
            )
        for name in wanted if config.train_bias else ():
            if has_bias(self.modules[name]) and f"{name}.{BIAS}" not in saved:
                raise AdapterFileError(f"The adapter has no bias for {name}: its file is incomplete.")

    def _sorted(self, config: PropulsionConfig, saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Heads]:
        """Vectors and heads apart."""
        vectors: dict[str, Tensor] = {}
        heads: Heads = {}
        for key, tensor in saved.items():
            if is_vector(key):
                vectors[key] = tensor
                continue
            head = self._head_of(key, config.modules_to_save or ())
            heads.setdefault(head, {})[key.removeprefix(f"{head}.")] = tensor
        return vectors, heads

    def _head_of(self, key: str, modules_to_save: Iterable[str]) -> str:
        parts = key.split(".")
        for length in range(1, len(parts)):
            name = ".".join(parts[:length])
            if name in self.modules and is_saved_whole(name, modules_to_save):
                return name
        raise BaseModelError(
            f"The adapter has weights for {key}, which is no module of this model that modules_to_save names: load it "
            "onto the base model named in its adapter_config.json, with the same kind of head."
        )

    def _built(self, config: PropulsionConfig, vectors: Mapping[str, Tensor], heads: Heads) -> Adapter:
        labels = [self._labels_of(name, state) for name, state in heads.items()]
        deltas = {split_key(key)[0]: in_full(delta) for key, delta in vectors.items() if split_key(key)[1] == DELTA}
        for name, delta in deltas.items():
            self._check_size(name, delta)
        columns: list[Column] = []
        values: list[Tensor] = []
        for name, gains in _gains(config, deltas).items():
            parts: list[tuple[Part, Tensor]] = [("gain", gains[0])]
            if len(gains) == 2:
                parts.append(("negative", gains[1]))
            if (bias := vectors.get(f"{name}.{BIAS}")) is not None:
                self._check_size(name, bias)
                parts.append(("bias", bias))
            columns += [Column(name, part, value.shape[-1]) for part, value in parts]
            values += [value.float() for _, value in parts]
        together = torch.cat(values) if values else torch.empty(0)
        if not torch.isfinite(together).all():
            raise AdapterFileError("Some gains z^k of the adapter are not finite: use an earlier checkpoint of it.")
        layout = tuple(columns)
        known = next((number for number in labels if number is not None), None)
        return Adapter(self._layouts.setdefault(layout, layout), together, heads, known)

    def _check_size(self, name: str, vector: Tensor) -> None:
        if name not in self._sizes:
            layer = self.modules[name]
            self._sizes[name] = kind_of(layer, name)(layer).out_features
        size = self._sizes[name]
        if vector.shape[-1] != size:
            raise BaseModelError(
                f"The adapter has the shape {tuple(vector.shape)} for {name}, which has {size} outputs in this model: "
                "load it onto the base model named in its adapter_config.json."
            )

    def _labels_of(self, name: str, state: Mapping[str, Tensor]) -> int | None:
        """The number of labels of a head that fits this model; None if nothing in it has one entry for each label."""
        labels = None
        if isinstance(self.modules.get(name), nn.Embedding):
            raise LayerError(
                f"The adapter has trained the embedding {name} whole, which all rows of a bank share: load it with "
                "PeftModel into a base model of its own."
            )
        if name not in self.modules:
            raise BaseModelError(
                f"The adapter trains {name} whole, which this model lacks: load it onto its base model."
            )
        own = self.modules[name].state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())[0]
            raise BaseModelError(
                f"The adapter's {name} and this model's differ in {odd}: they are heads of other kinds."
            )
        for key, tensor in state.items():
            shape, expected = list(tensor.shape), list(own[key].shape)
            if expected and expected[0] == self.labels:
                labels, shape, expected = shape[0], shape[1:], expected[1:]
            if shape != expected:
                raise BaseModelError(
                    f"The adapter has the shape {tuple(tensor.shape)} for {name}.{key}, this model "
                    f"{tuple(own[key].shape)}: they differ in more than the number of labels."
                )
        return labels


def _config_in(folder: str) -> PropulsionConfig:
    if not os.path.isfile(os.path.join(folder, "adapter_config.json")):
        raise AdapterFileError(f"{folder} has no adapter_config.json: give the folder that the adapter was saved to.")
    try:
        config = PeftConfig.from_pretrained(folder)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise AdapterFileError(f"{folder}/adapter_config.json is damaged ({error}): get the adapter again.") from error
    if not isinstance(config, PropulsionConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ConfigError(f"{folder} is an adapter of {kind}, and not of Propulsion.")
    return config


def _gains(config: PropulsionConfig, deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The pooled gains of each layer, of shape (1, d_out) or (2, d_out), bit for bit those that the layer takes."""
    degrees = {name: config.degrees_in(name) for name in deltas}
    if config.num_vectors == 1:
        together = powers_of_each(list(deltas.values()), [degree[0] for degree in degrees.values()])
        return dict(zip(deltas, together, strict=True))
    return {name: pool(powers(1 + delta, degrees[name]), config.pooling) for name, delta in deltas.items()}
