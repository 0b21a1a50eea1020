"""LoRA: low-rank updates of the weights, W + (α/r) B A (Hu et al., 2021)."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel

from propulsion_tools.methods.from_peft import on_targets, peft_method
from propulsion_tools.methods.registry import Cost, Method
from propulsion_tools.records import RunSpec

DELTA = "ΔW = W_down W_up, of rank r ≪ d"
COST = Cost("O((d + d) × r)", "O((d + d) × r)", "2dr")


def lora(name: str, r: int) -> Method:
    """LoRA of a rank, α = 2r where none is given."""
    return peft_method(
        name=name,
        description=f"low-rank updates of the weights, r = {r}",
        config_class=LoraConfig,
        learning_rate=1e-3,
        adam_beta1=0.0,  # docs/results.md, "Momentum"
        defaults={"r": r},
        derive=with_alpha,
        delta=DELTA,
        cost=COST,
    )


def with_alpha(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """The targets, and α = 2r where none is given."""
    rank = values["r"]
    return on_targets({"lora_alpha": 2 * rank, **values}, base_model, spec)


METHODS = (lora("lora", 8), lora("lora-r1", 1), lora("lora-r2", 2))
