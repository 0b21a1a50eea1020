"""Prefix-tuning: trained keys and values before those of every layer (Li and Liang, 2021)."""

from __future__ import annotations

from typing import Any

from peft import PrefixTuningConfig
from transformers import PreTrainedModel

from propulsion_tools.methods.layer_prefix import refuse_without_cache, shares_one_head
from propulsion_tools.methods.registry import Cost
from propulsion_tools.methods.virtual_tokens import virtual_token_method
from propulsion_tools.records import RunSpec


def with_head_sizes(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """The configuration, with the sizes of keys and values where all queries share one head of them.

    Raises:
        OptionError: The architecture takes no prefix, or it is to recompute its activations.
    """
    refuse_without_cache(base_model, spec)
    if shares_one_head(base_model.config):  # PEFT would make as many as there are queries
        return {"num_attention_heads": 1, "token_dim": base_model.config.head_dim, **values}
    return values


METHOD = virtual_token_method(
    name="prefix-tuning",
    description="trained keys and values before those of every layer",
    config_class=PrefixTuningConfig,
    learning_rate=1e-2,
    derive=with_head_sizes,
    delta="ΔW = 0; K ← [P_K; K], V ← [P_V; V]",
    cost=Cost("O(L × d × l_p)", "O(L × d × l_p)", "L · l_p · d"),
)
