"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from propulsion_tools.methods.registry import Cost, HasTaskType, Method, register
from propulsion_tools.records import RunSpec


def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Leave everything trainable."""
    return base_model.requires_grad_(True)


METHOD = register(
    Method(
        name="full",
        description="every weight of the network",
        build=build,
        learning_rate=lambda spec: 1e-4,
        dropout=None,
        delta="ΔW free",
        place="trains every weight",
        cost=Cost("O(d × d)", "O(d × d)", "d²"),
    )
)
