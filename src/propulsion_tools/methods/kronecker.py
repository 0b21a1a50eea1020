"""Updates made of products that are not matrix products: LoHa (Hyeon-Woo et al., 2022), LoKr (Yeh et al., 2023) and
KronA (Edalati et al., 2022)."""

from __future__ import annotations

from typing import Any

from peft import LoHaConfig, LoKrConfig
from transformers import PreTrainedModel

from propulsion_tools.methods.from_peft import on_targets, peft_method
from propulsion_tools.methods.registry import Cost
from propulsion_tools.records import RunSpec

# From half the width of a factor on, LoKr leaves the factor whole: then its update is KronA's.
WHOLE_FACTORS = 1_000_000


def with_alpha(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """The targets, and α = r where none is given, which is a scale of 1."""
    return on_targets({"alpha": values["r"], **values}, base_model, spec)


LOHA = peft_method(
    name="loha",
    description="the Hadamard product of two low-rank updates",
    config_class=LoHaConfig,
    learning_rate=2e-3,
    defaults={"r": 8},
    derive=with_alpha,
    delta="ΔW = (B₁ A₁) ⊙ (B₂ A₂)",
    cost=Cost("O(2r × (d + d))", "O(2r × (d + d))", "4dr"),
)
LOKR = peft_method(
    name="lokr",
    description="the Kronecker product of a matrix and a low-rank one",
    config_class=LoKrConfig,
    learning_rate=2e-3,
    defaults={"r": 8},
    derive=with_alpha,
    delta="ΔW = C ⊗ (B A)",
)
KRONA = peft_method(
    name="krona",
    description="the Kronecker product of two matrices",
    config_class=LoKrConfig,
    learning_rate=2e-3,
    defaults={"r": WHOLE_FACTORS},
    derive=with_alpha,
    delta="ΔW = W_down ⊗ W_up, of rank(W_down) × rank(W_up)",
)
