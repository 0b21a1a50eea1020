"""Keys and values put before those of every layer, as modules of ours that other changes can stand beside.

PEFT's prefix-tuning wraps the whole model, so that nothing else can be trained with it. These methods need both: MAM
(He et al., 2022) adds a bottleneck beside each feed-forward part, and ProPETL (Zeng et al., 2023) shares one prefix,
of which each layer learns a mask. The start is near the identity, not at it: a prefix takes attention at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.attach import check_options
from propulsion_tools.methods.bottleneck import attach_parallel, refuse_targets
from propulsion_tools.methods.heads import train_the_head_alone
from propulsion_tools.methods.prompts import check_length, refuse_without_cache, shares_one_head
from propulsion_tools.methods.propetl import Masked, check_share
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec

START = 0.02


class Prefix(nn.Module):
    """Trained keys and values for each layer: shape (2, layers, heads, length, head dimension), float32."""

    def __init__(self, layers: int, heads: int, length: int, head_dim: int) -> None:
        super().__init__()
        self.length = length
        self.states = nn.Parameter(torch.randn(2, layers, heads, length, head_dim) * START)

    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """One pair for each layer, of shape (heads, length, head dimension)."""
        return list(zip(self.states[0], self.states[1], strict=True))

    def inject(
        self, backbone: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Forward pre-hook of the backbone: the prefix is its past."""
        given = (*inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        tokens = next(value for value in given if value is not None)
        batch, length = tokens.shape[:2]
        mask = kwargs.get("attention_mask")
        mask = torch.ones(batch, length, dtype=torch.long, device=tokens.device) if mask is None else mask
        seen = mask.new_ones(batch, self.length)
        dtype = next(parameter.dtype for parameter in backbone.parameters() if not parameter.requires_grad)
        past = [tuple(state.to(dtype).expand(batch, -1, -1, -1) for state in pair) for pair in self.keys_and_values()]
        return inputs, {**kwargs, "attention_mask": torch.cat((seen, mask), 1), "past_key_values": DynamicCache(past)}


class SharedPrefix(Prefix):
    """One prefix for all layers, masked by each."""

    def __init__(self, layers: int, heads: int, length: int, head_dim: int, kept: float) -> None:
        super().__init__(1, heads, length, head_dim)
        width = heads * head_dim
        self.masks = nn.ModuleList(Masked(torch.Size((2 * length, width)), kept) for _ in range(layers))

    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """One pair for each layer, of shape (heads, length, head dimension)."""
        _, _, heads, length, head_dim = self.states.shape
        shared = self.states[:, 0].transpose(1, 2).reshape(2 * length, heads * head_dim)
        layers = [mask(shared).view(2, length, heads, head_dim).transpose(1, 2) for mask in self.masks]
        return [(layer[0], layer[1]) for layer in layers]


def attach_prefix(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType, length: int, **kwargs: Any) -> None:
    """Put a prefix before the keys and values of every layer.

    Raises:
        OptionError: The architecture takes none, it does not fit, or the task generates.
    """
    config = base_model.config
    refuse_without_cache(base_model, spec)
    if config.is_encoder_decoder or task.peft_task_type == "CAUSAL_LM":
        raise OptionError(f"{spec.method} reaches no encoder-decoder and cannot generate; choose prefix-tuning.")
    check_length(length, base_model, spec)
    heads = 1 if shares_one_head(config) else getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kind = SharedPrefix if kwargs else Prefix
    prefix = kind(config.num_hidden_layers, heads, length, head_dim, **kwargs)
    backbone = base_model.base_model
    backbone.add_module("prefix", prefix)
    backbone.register_forward_pre_hook(prefix.inject, with_kwargs=True)


@dataclass(frozen=True)
class MamOptions:
    """Raises `OptionError` for what is out of range."""

    num_virtual_tokens: int = 30
    """Length of the prefix."""
    bottleneck: int | None = None
    """Width in the middle of the bottleneck; None: two thirds of the hidden size, 512 of 768 as in the original."""
    scale: float = 4.0
    """s, what the bottleneck's output is multiplied with."""

    def __post_init__(self) -> None:
        check_options(self, "mam")


def build_mam(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """A prefix in each attention and a bottleneck beside each feed-forward part.

    Raises:
        OptionError: An argument is out of range, or the prefix does not fit.
        TargetError: The architecture is unknown.
    """
    options = MamOptions(**(spec.method_args or {}))
    refuse_targets(spec)
    train_the_head_alone(base_model, spec)
    attach_parallel(base_model, options.bottleneck, options.scale)
    attach_prefix(base_model, spec, task, options.num_virtual_tokens)
    return base_model


@dataclass(frozen=True)
class SharedOptions:
    """Raises `OptionError` for what is out of range."""

    num_virtual_tokens: int = 20
    """Length of the prefix."""
    kept: float = 0.5
    """The share of the shared prefix that each layer keeps."""

    def __post_init__(self) -> None:
        check_options(self, "propetl-prefix")
        check_share(self.kept)


def build_shared(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """One prefix, masked by each layer.

    Raises:
        OptionError: An argument is out of range, or the prefix does not fit.
    """
    options = SharedOptions(**(spec.method_args or {}))
    refuse_targets(spec)
    train_the_head_alone(base_model, spec)
    attach_prefix(base_model, spec, task, options.num_virtual_tokens, kept=options.kept)
    return base_model


MAM = register(
    Method(
        "mam",
        "a prefix in the attention, a bottleneck beside the feed-forward",
        build_mam,
        lambda spec: 1e-3,
        5e-3,
        delta="ΔW = 0; prefix-tuning and parallel-adapter together",
        config_class=MamOptions,
    )
)
PROPETL_PREFIX = register(
    Method(
        "propetl-prefix",
        "one prefix shared by all layers, masked by each",
        build_shared,
        lambda spec: 1e-2,
        5e-3,
        delta="ΔW = 0; K ← [P_K ⊙ m_l; K], V ← [P_V ⊙ m'_l; V]",
        config_class=SharedOptions,
    )
)
