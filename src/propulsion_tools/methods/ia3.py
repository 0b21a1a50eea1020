"""(IA)³: keys, values and the feed-forward's inner activations times trained vectors (Liu et al., 2022)."""

from __future__ import annotations

from typing import Any

from peft import IA3Config
from transformers import PreTrainedModel

from propulsion_tools.methods.from_peft import peft_method
from propulsion_tools.methods.layer_names import feed_forward_outputs, target_names
from propulsion_tools.methods.registry import Cost
from propulsion_tools.records import RunSpec
from propulsion_tools.upstream.peft_private import ia3_feed_forward, ia3_targets


def targets(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """PEFT's own targets where it has some, or the spec's; the ends of feed-forward parts have their inputs scaled."""
    kind, chosen = base_model.config.model_type, (spec.target_modules, spec.exclude_modules, spec.layers_to_transform)
    if ia3_targets(kind) and chosen == (None, None, None):
        return values
    ends = set(feed_forward_outputs(base_model))
    endings = tuple(f".{end}" for end in ia3_feed_forward(kind))
    ends |= {name for name, _ in base_model.named_modules() if name.endswith(endings)}
    names = target_names(base_model, spec, ("key", "value", "mlp"))
    if spec.target_modules is None:
        usual = set(target_names(base_model, spec, ("key", "value"))) | ends
        names = [name for name in names if name in usual]
    return {"feedforward_modules": [name for name in names if name in ends], **values, "target_modules": names}


METHOD = peft_method(
    name="ia3",
    description="keys, values and feed-forward activations times trained vectors",
    config_class=IA3Config,
    learning_rate=1e-2,
    adam_beta1=0.0,  # docs/results.md, "Momentum"
    defaults={},
    derive=targets,
    delta="ΔW = W ⊙ (l − 1), one l for each output (feed-forward: input)",
    cost=Cost("O(d_k + d_v + d_ff)", "O(d_k + d_v + d_ff)", "3d"),
)
