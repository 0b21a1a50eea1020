"""(IA)³: keys, values and the feed-forward's inner activations times trained vectors (Liu et al., 2022)."""

from __future__ import annotations

from typing import Any

from peft import IA3Config
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEED_FORWARD
from transformers import PreTrainedModel

from propulsion.methods.places import target_names
from propulsion.methods.registry import Cost
from propulsion.methods.wrapping import peft_method
from propulsion.records import RunSpec


def targets(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """PEFT's own targets, or the spec's; of those, the ends of feed-forward parts have their inputs scaled."""
    if spec.target_modules is None and spec.exclude_modules is None and spec.layers_to_transform is None:
        return values
    usual = FEED_FORWARD.get(base_model.config.model_type, [])
    default = ("key", "value", "mlp")
    names = target_names(base_model, spec, default)
    scaled_inputs = [name for name in names if any(name.endswith(f".{ending}") for ending in usual)]
    return {"feedforward_modules": scaled_inputs, **values, "target_modules": names}


METHOD = peft_method(
    "ia3",
    "keys, values and feed-forward activations times trained vectors",
    IA3Config,
    1e-2,
    defaults={},
    derive=targets,
    delta="ΔW = W ⊙ (l − 1), one l for each output (feed-forward: input)",
    cost=Cost("O(d_k + d_v + d_ff)", "O(d_k + d_v + d_ff)", "3d"),
)
