"""BitFit: the biases alone (Ben Zaken et al., 2022)."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.head_training import HEAD_LEARNING_RATE, train_the_head_alone
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec


def build(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """Train every bias of the backbone, those of the norms too, and the whole head.

    Raises:
        OptionError: The backbone has no biases.
    """
    train_the_head_alone(base_model, spec)
    backbone = base_model.base_model
    biases = [parameter for name, parameter in backbone.named_parameters() if name.rpartition(".")[2] == "bias"]
    if not biases:
        raise OptionError(
            f"bitfit trains biases, and the backbone of a {type(base_model).__name__} has none: take another --method."
        )
    for bias in biases:
        bias.requires_grad_(True)
    for module in backbone.modules():  # a norm wants weight and bias of one dtype, and what is trained is float32
        if type(module).__name__.endswith("Norm") and getattr(module, "bias", None) is not None:
            module.float()
    return base_model


METHOD = register(
    Method(
        name="bitfit",
        description="every bias of the network",
        build=build,
        learning_rate=lambda spec: 2e-3,
        head_learning_rate=HEAD_LEARNING_RATE,
        delta="ΔW = 0, Δb free",
        place="trains every bias",
    )
)
