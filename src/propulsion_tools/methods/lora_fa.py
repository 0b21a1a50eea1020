"""LoRA-FA: LoRA whose A stays at its random start; the gradient of B is corrected for it (Zhang et al., 2023)."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel
from peft.optimizers import create_lorafa_optimizer
from torch import nn
from torch.optim import Optimizer

from propulsion_tools.methods.from_peft import peft_method
from propulsion_tools.methods.lora import with_alpha
from propulsion_tools.methods.registry import Cost


def freeze_down(model: nn.Module) -> nn.Module:
    """A, the projection down, is not trained."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)
    return model


def optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """PEFT's AdamW on g_B (A Aᵀ)⁻¹ / s², the B-gradient whose step in ΔW is nearest to that of full fine-tuning."""
    assert isinstance(model, PeftModel)
    config = model.peft_config[model.active_adapters[0]]
    return pass_over_waiting(create_lorafa_optimizer(model, config.r, config.lora_alpha, learning_rate, weight_decay))


def pass_over_waiting(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer that wants a gradient for each of its parameters step without the groups that have none."""
    groups: list[dict[str, Any]] = []

    def hide(*_: Any) -> None:
        groups[:] = optimizer.param_groups
        optimizer.param_groups = [group for group in groups if any(p.grad is not None for p in group["params"])]

    def show(*_: Any) -> None:
        optimizer.param_groups = list(groups)

    optimizer.register_step_pre_hook(hide)
    optimizer.register_step_post_hook(show)
    return optimizer


METHOD = peft_method(
    name="lora-fa",
    description="LoRA with a frozen projection down",
    config_class=LoraConfig,
    learning_rate=1e-3,
    defaults={"r": 8},
    derive=with_alpha,
    prepare=freeze_down,
    optimizer=optimizer,
    delta="ΔW = W_down W_up = Q R W_up, W_down frozen",
    cost=Cost("O((d + d) × r)", "O((d + d) × r)", "dr"),
)
