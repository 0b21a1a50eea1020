"""Keys and values put before those of every layer, as a module of ours that other changes can stand beside.

PEFT's prefix-tuning wraps the whole model, so that nothing else can be trained with it. MAM and ProPETL need both. The
start is near the identity, not at it: a prefix takes attention at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.positions import check_virtual_tokens
from propulsion_tools.methods.registry import HasTaskType
from propulsion_tools.records import RunSpec

START = 0.02
# Their attention takes no keys and values from outside.
WITHOUT_PREFIX = ("deberta", "deberta-v2", "distilbert")


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


def attach_prefix(
    base_model: PreTrainedModel,
    spec: RunSpec,
    task: HasTaskType,
    length: int,
    make: Callable[[int, int, int, int], Prefix],
) -> None:
    """Put a prefix before the keys and values of every layer.

    Args:
        base_model: What is changed.
        spec: Of the run.
        task: Of the run.
        length: Of the prefix.
        make: Makes it from the number of layers and heads, its length and the head dimension.

    Raises:
        OptionError: The architecture takes none, it does not fit, or the task generates.
    """
    config = base_model.config
    refuse_without_cache(base_model, spec)
    if config.is_encoder_decoder or task.peft_task_type == "CAUSAL_LM":
        raise OptionError(f"{spec.method} reaches no encoder-decoder and cannot generate; choose prefix-tuning.")
    check_virtual_tokens(length, base_model, spec)
    heads = 1 if shares_one_head(config) else getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    prefix = make(config.num_hidden_layers, heads, length, head_dim)
    backbone = base_model.base_model
    backbone.add_module("prefix", prefix)
    backbone.register_forward_pre_hook(prefix.inject, with_kwargs=True)


def shares_one_head(config: Any) -> bool:
    """Whether all queries share one head of keys and values, which the configuration does not give a number for."""
    return bool(config.model_type == "falcon" and config.multi_query and not config.new_decoder_architecture)


def refuse_without_cache(base_model: PreTrainedModel, spec: RunSpec) -> None:
    """Refuse what takes no keys and values from outside.

    Raises:
        OptionError: Names the architecture; or the model is to recompute its activations.
    """
    if spec.gradient_checkpointing:
        raise OptionError(f"gradient_checkpointing turns off the cache that {spec.method} writes to: leave it out.")
    if base_model.config.model_type in WITHOUT_PREFIX:
        raise OptionError(
            f"{spec.method} needs an attention that takes keys and values from outside, and that of "
            f"{base_model.config.model_type} takes none; choose another --method."
        )
